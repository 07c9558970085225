#![no_main]

use gaia_jit::fuzzing::jit_memory::Program;

libfuzzer_sys::fuzz_target!(|program: Program| program.run());
