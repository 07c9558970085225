//! System calls fail at random, many at a time: whatever is refused, what was published stays, and
//! nothing is lost.
//!
//! | what | how it is checked |
//! |---|---|
//! | live blocks, every 500 operations | bytes, lookup, a call of each, and figures that add up to the capacity |
//! | the end, after `heal` and `trim` | all space is one hole, and no page is resident if the mode gives memory back |
//! | what the system refused to unmap | it is parked, and later releases unmap it |
//!
//! The operations are single functions, batches, patches, drops with and without a guard, and
//! trims. They run in four modes and with three page sizes, in a child process, because parked
//! memory belongs to the whole process.
//!
//! `GAIA_TEST_FAULT_SEED` replays the seed that a failed run printed, `GAIA_TEST_FAULT_OPS` sets
//! the operations in each mode.

use fastrand::Rng;

use super::common::child;
use super::faulty::Faulty;
use super::gives_back;
use crate::icache::RETURN_1_2;
use crate::sys;
use crate::{CodeArena, CodeBlock, Error, JitMemory, WxMode};

const CAPACITY: usize = 1 << 20;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Code of a few bytes, a few pages, or more than a batch stages.
fn code(rng: &mut Rng) -> Vec<u8> {
    let mut code = RETURN_1_2[rng.usize(..2)].to_vec();
    let len = match rng.u8(..) {
        0..=2 => rng.usize(70_000..100_000),
        3..=30 => rng.usize(4_000..20_000),
        _ => rng.usize(40..1_000),
    };
    code.resize(len, rng.u8(..));
    code
}

struct Run {
    arena: CodeArena,
    rng: Rng,
    blocks: Vec<(CodeBlock, Vec<u8>)>,
    refused: usize,
}

impl Run {
    fn note(&mut self, error: Error) {
        match error {
            Error::OperatingSystem { .. } => self.refused += 1,
            Error::ArenaFull { .. } => self.blocks.truncate(self.blocks.len() / 2),
            // In `Flip` where the kernel writer was refused.
            Error::Unsupported { .. } => {}
            other => panic!("{other:?}"),
        }
    }

    fn batch(&mut self) -> Result<(), Error> {
        let mut batch = self.arena.batch();
        let codes: Vec<_> = (0..self.rng.usize(1..60)).map(|_| code(&mut self.rng)).collect();
        for code in &codes {
            batch.push(code)?;
        }
        if self.rng.u8(..) < 200 {
            let blocks = batch.publish()?;
            self.blocks.extend(blocks.into_iter().zip(codes));
        }
        Ok(())
    }

    fn single(&mut self) -> Result<(), Error> {
        let code = code(&mut self.rng);
        let block = self.arena.publish(&code)?;
        self.blocks.push((block, code));
        Ok(())
    }

    fn patch(&mut self) -> Result<(), Error> {
        if self.blocks.is_empty() {
            return Ok(());
        }
        let at = self.rng.usize(..self.blocks.len());
        let (block, code) = &mut self.blocks[at];
        let [one, two] = RETURN_1_2;
        let new = if code.starts_with(one) { two } else { one };
        // SAFETY: nobody runs the block meanwhile.
        let first = unsafe { block.patch(0, new) };
        if let Err(Error::OperatingSystem { .. }) = first {
            // Half of it may be there: it goes on until all is.
            // SAFETY: as above.
            while unsafe { block.patch(0, new) }.is_err() {}
        }
        if !matches!(first, Err(Error::Unsupported { .. })) {
            code[..new.len()].copy_from_slice(new);
        }
        first
    }

    fn step(&mut self) {
        let outcome = match self.rng.u8(..) {
            0..90 => self.single(),
            90..110 => self.batch(),
            110..130 => self.patch(),
            130..134 => self.arena.trim().map(drop),
            134..200 => {
                let guard = (self.rng.u8(..) < 60).then(|| self.arena.pin());
                if !self.blocks.is_empty() {
                    self.blocks.swap_remove(self.rng.usize(..self.blocks.len()));
                }
                drop(guard);
                Ok(())
            }
            _ => Ok(()),
        };
        if let Err(error) = outcome {
            self.note(error);
        }
    }

    /// What an arena holds is what was published, whatever was refused since.
    fn check(&self) {
        for (block, code) in &self.blocks {
            assert_eq!(block.as_bytes(), *code);
            assert_eq!(self.arena.lookup(block.as_ptr()).map(|hit| hit.len), Some(code.len()));
            // SAFETY: all the code of this test begins with a function of this type.
            let f = unsafe { block.as_fn::<extern "C" fn() -> u32>() };
            assert_eq!(f(), if code.starts_with(RETURN_1_2[0]) { 1 } else { 2 });
        }
        let stats = self.arena.stats();
        assert_eq!(stats.live_blocks, self.blocks.len());
        assert_eq!(stats.live_bytes, self.blocks.iter().map(|(_, code)| code.len()).sum::<usize>());
        let all = stats.live_bytes + stats.padding_bytes + stats.pending_bytes + stats.batch_bytes + stats.free_bytes;
        assert_eq!(all, stats.capacity);
    }
}

fn run(mode: WxMode, page: usize, seed: u64, operations: u64) {
    let os = Faulty::leaked_with_pages(page);
    let mut rng = Rng::with_seed(seed);
    let builder = CodeArena::builder().capacity(CAPACITY).mode(mode).poison(rng.bool()).huge_pages(rng.bool()).os(os);
    if let Err(refused) = builder.clone().build() {
        return assert!(matches!(refused, Error::Unsupported { .. }), "{refused}");
    }
    let one_in = rng.u32(2..40);
    os.fail_randomly(rng.u64(..), one_in);
    let arena = (0..).find_map(|_| builder.clone().build().ok());
    let mut run = Run { arena: arena.unwrap(), rng, blocks: Vec::new(), refused: 0 };
    for n in 0..operations {
        run.step();
        if n % 500 == 0 {
            run.check();
        }
    }
    run.check();
    os.heal();
    run.blocks.clear();
    run.arena.trim().unwrap();
    let stats = run.arena.stats();
    assert_eq!((stats.free_bytes, stats.largest_hole, stats.pending_bytes), (CAPACITY, CAPACITY, 0), "{stats}");
    assert!(stats.resident_bytes == 0 || !gives_back(&run.arena), "{stats}");
    println!("{mode:?}: {operations} operations, one call in {one_in} refused, {} of them seen", run.refused);
    drop(run);
    // Each release takes along some of what was parked.
    for _ in 0..operations {
        if sys::parked_bytes() == 0 {
            break;
        }
        drop(JitMemory::with_os(1, os));
    }
    assert_eq!((os.mapped(), sys::parked_bytes()), (0, 0));
}

/// In a process of its own: what is parked is the whole process's.
#[test]
fn calls_refused_at_random_lose_nothing() {
    let seed = setting("GAIA_TEST_FAULT_SEED", fastrand::u64(..1 << 40));
    let operations = setting("GAIA_TEST_FAULT_OPS", 2_000);
    let output = child::output("calls_refused_at_random_lose_nothing", || {
        println!("GAIA_TEST_FAULT_SEED={seed}");
        // Pages of 4, 16 and 64 KiB: a system with small ones does for large ones too.
        for (n, page) in [4, 16, 64, 4].into_iter().enumerate() {
            for mode in [WxMode::Flip, WxMode::DualMap, WxMode::PerThread, WxMode::FileWrite] {
                run(mode, page << 10, seed.wrapping_add(n as u64), operations);
            }
        }
    });
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}\n{out}\n{err}", output.status);
    print!("{out}");
}
