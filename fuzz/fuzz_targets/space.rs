#![no_main]

use gaia_jit::fuzzing::space::Program;

libfuzzer_sys::fuzz_target!(|program: Program| program.run());
