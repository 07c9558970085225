#![no_main]

use gaia_jit::fuzzing::arena::Program;

libfuzzer_sys::fuzz_target!(|program: Program| program.run());
