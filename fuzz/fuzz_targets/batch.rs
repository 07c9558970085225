#![no_main]

use gaia_jit::fuzzing::batch::Program;

libfuzzer_sys::fuzz_target!(|program: Program| program.run());
