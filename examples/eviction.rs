//! A small runtime around a code cache, without a compiler. Functions of a few hand-made
//! instructions are linked and published, called by several threads, and evicted when the cache is
//! full. It runs on every architecture that the crate supports.
//!
//! ```text
//! cargo run --release --example eviction            # a few seconds, in every mode that the system has
//! cargo run --release --example eviction -- 1000    # so many calls for each thread
//! ```
//!
//! Each entry of the cache is a pair: a function that returns a number, and a function that jumps
//! to it. A thread that does not find a pair publishes it, and the cache evicts another pair for
//! it. Other threads may still run the evicted pair. They hold a guard, so its space is used again
//! only after they have ended.

#[path = "../tests/common/asm.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used, clippy::panic, reason = "shared with the tests")]
mod asm;

use std::thread;

use gaia_jit::cache::CodeCache;
use gaia_jit::{Batch, CodeArena, Error, Slot, WxMode};

const FUNCTIONS: usize = 2_000;
const CAPACITY: usize = 128 << 10;
const THREADS: usize = 3;

type Number = extern "C" fn() -> u32;

fn cache(mode: WxMode) -> Result<CodeCache<usize>, Error> {
    let page = CodeArena::builder().capacity(1).build()?.capacity();
    // If each publication takes a page of its own, the arena needs some pages.
    let arena = CodeArena::builder().mode(mode).capacity(CAPACITY.max(16 * page)).build()?;
    Ok(CodeCache::builder(arena).build())
}

/// Calls function `n`, which returns `n`.
fn call(cache: &CodeCache<usize>, n: usize) -> Result<u32, Error> {
    // An entry that is found under a guard stays as long as the guard.
    let guard = cache.arena().pin();
    if let Some(found) = cache.get_in(&guard, &n) {
        // SAFETY: it is a function of this type.
        return Ok(unsafe { found.typed::<Number>() }.call());
    }
    drop(guard);
    loop {
        match cache.get_or_compile(&n, |batch| make(batch, n)) {
            // SAFETY: it is a function of this type.
            Ok(made) => return Ok(unsafe { made.typed::<Number>() }.call()),
            // Everything that can be evicted waits for guards of threads that do not run at this
            // moment.
            Err(Error::ArenaFull { .. }) => thread::yield_now(),
            Err(error) => return Err(error),
        }
    }
}

/// Compiles two functions into one batch. The first jumps to the second.
fn make(batch: &mut Batch, n: usize) -> Result<Slot, Error> {
    let entry = batch.reserve(asm::tail_len(), 16)?;
    let body = batch.push(&asm::padded(n as u32, 64 + n % 512))?;
    let jump = asm::tail_call(batch.address(entry), batch.address(body));
    batch.bytes_mut(entry).copy_from_slice(&jump);
    Ok(entry)
}

fn run(cache: &CodeCache<usize>, calls: usize) -> Result<(), Error> {
    let work = |thread: usize| {
        let mut n = thread;
        for _ in 0..calls {
            // A full period of the generator visits all functions.
            n = (n * 421 + 54_773) % FUNCTIONS;
            let got = call(cache, n)?;
            assert_eq!(got as usize, n, "the wrong function was called");
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || work(thread))).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let calls = std::env::args().nth(1).map_or(Ok(200_000), |word| word.parse())?;
    for mode in [WxMode::Flip, WxMode::DualMap, WxMode::FileWrite, WxMode::PerThread] {
        let cache = match cache(mode) {
            Ok(cache) => cache,
            Err(refused @ Error::Unsupported { .. }) if mode != WxMode::Flip => {
                println!("{mode:?}: not here: {refused}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        run(&cache, calls)?;
        let stats = cache.stats();
        println!("{mode:?}: {} calls, {} compiled, {} evicted", calls * THREADS, stats.misses, stats.evictions);
        let arena = cache.arena().clone();
        println!("{:#}", arena.stats());
        drop(cache);
        arena.trim()?;
        let stats = arena.stats();
        assert_eq!((stats.live_blocks, stats.free_bytes), (0, stats.capacity), "something was lost");
    }
    Ok(())
}
