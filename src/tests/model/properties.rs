//! The models, driven by random bytes and by the seeds of the fuzzer.

use std::fmt::Debug;

use arbitrary::{Arbitrary, Unstructured};
use proptest::prelude::*;

use super::{arena, batch, jit_memory, space};

fn program<P: for<'a> Arbitrary<'a>>(bytes: &[u8]) -> P {
    P::arbitrary_take_rest(Unstructured::new(bytes)).unwrap()
}

/// Programs from up to `most` random bytes.
fn programs<P: for<'a> Arbitrary<'a> + Debug>(most: usize) -> impl Strategy<Value = P> {
    prop::collection::vec(any::<u8>(), 0..most).prop_map(|bytes| program(&bytes))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: crate::tests::common::often(960) as u32 / 10, ..ProptestConfig::default() })]

    #[test]
    fn the_arena_agrees_with_its_model(program in programs::<arena::Program>(900)) {
        program.run();
    }

    #[test]
    fn batches_agree_with_their_model(program in programs::<batch::Program>(900)) {
        program.run();
    }

    #[test]
    fn single_blocks_agree_with_their_model(program in programs::<jit_memory::Program>(600)) {
        program.run();
    }

    #[test]
    fn the_space_agrees_with_its_model(program in programs::<space::Program>(900)) {
        program.run();
    }
}

/// The package leaves the fuzzer out, and its seeds with it.
fn replay<P: for<'a> Arbitrary<'a> + Debug>(target: &str, run: impl Fn(&P)) {
    let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let Ok(files) = std::fs::read_dir(&seeds) else {
        eprintln!("no seeds at {}", seeds.display());
        return;
    };
    for file in files {
        let path = file.unwrap().path();
        eprintln!("{}", path.display());
        run(&program(&std::fs::read(path).unwrap()));
    }
}

#[test]
fn seeds_of_the_fuzzer_still_pass() {
    replay("arena", arena::Program::run);
    replay("batch", batch::Program::run);
    replay("jit_memory", jit_memory::Program::run);
    replay("space", space::Program::run);
}
