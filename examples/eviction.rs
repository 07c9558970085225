//! The shape of a runtime around a code cache, without a compiler: functions of a few hand-made instructions are linked
//! and published in batches, called by several threads, and evicted when the cache is full. Runs on every architecture
//! that the crate knows.
//!
//! ```text
//! cargo run --release --example eviction            # a few seconds, in every mode that the system has
//! cargo run --release --example eviction -- 1000    # so many calls for each thread
//! ```
//!
//! Each entry of the table of functions is a pair: a function that returns a number, and one that jumps to it. A thread
//! that finds an entry empty publishes the pair. When the arena is full it empties the next entries in turn, as a clock
//! goes round, and drops their blocks; other threads may be running them, but hold a guard, so the space is used again
//! only when they are through.

#[path = "../tests/common/asm.rs"]
#[allow(dead_code, unreachable_pub, clippy::expect_used, clippy::panic, reason = "shared with the tests")]
mod asm;

use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread;

use gaia_jit::{CodeArena, CodeBlock, Error, WxMode};

const FUNCTIONS: usize = 2_000;
const CAPACITY: usize = 128 << 10;
const THREADS: usize = 3;

/// One entry: what threads call, and what keeps it alive.
#[derive(Default)]
struct Function {
    address: AtomicPtr<u8>,
    blocks: Mutex<Vec<CodeBlock>>,
}

struct Cache {
    arena: CodeArena,
    functions: Vec<Function>,
    /// The next entry to be evicted.
    hand: AtomicUsize,
    published: AtomicUsize,
    evicted: AtomicUsize,
}

impl Cache {
    fn new(mode: WxMode) -> Result<Self, Error> {
        let page = CodeArena::builder().capacity(1).build()?.capacity();
        // Where each publication takes a page of its own, there have to be some.
        let arena = CodeArena::builder().mode(mode).capacity(CAPACITY.max(16 * page)).build()?;
        Ok(Self {
            arena,
            functions: (0..FUNCTIONS).map(|_| Function::default()).collect(),
            hand: AtomicUsize::new(0),
            published: AtomicUsize::new(0),
            evicted: AtomicUsize::new(0),
        })
    }

    /// Calls function `n`, which returns `n`.
    fn call(&self, n: usize) -> Result<u32, Error> {
        loop {
            // Before the address is read, so that what it leads to stays.
            let guard = self.arena.pin();
            let address = self.functions[n].address.load(Ordering::Acquire);
            if !address.is_null() {
                // SAFETY: it is a function of this type, published and not reused before the guard is gone.
                let function = unsafe { std::mem::transmute::<*mut u8, extern "C" fn() -> u32>(address) };
                return Ok(function());
            }
            drop(guard);
            self.compile(n)?;
        }
    }

    fn compile(&self, n: usize) -> Result<(), Error> {
        let mut blocks = self.functions[n].blocks.lock().unwrap_or_else(PoisonError::into_inner);
        if !blocks.is_empty() {
            // Another thread was faster.
            return Ok(());
        }
        let made = loop {
            match self.make(n) {
                Err(Error::ArenaFull { .. }) => self.evict(n),
                made => break made?,
            }
        };
        let entry = made[0].as_ptr().cast_mut();
        *blocks = made;
        self.functions[n].address.store(entry, Ordering::Release);
        self.published.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Two functions in one batch: the first jumps to the second.
    fn make(&self, n: usize) -> Result<Vec<CodeBlock>, Error> {
        let mut batch = self.arena.batch();
        let entry = batch.reserve(asm::tail_len(), 16)?;
        let body = batch.push(&asm::padded(n as u32, 64 + n % 512))?;
        let jump = asm::tail_call(batch.address(entry), batch.address(body));
        batch.bytes_mut(entry).copy_from_slice(&jump);
        batch.publish()
    }

    /// Drops the next few functions in turn; `n` is being made, and others may be as well.
    fn evict(&self, n: usize) {
        for _ in 0..FUNCTIONS {
            let next = self.hand.fetch_add(1, Ordering::Relaxed) % FUNCTIONS;
            let function = &self.functions[next];
            if next == n {
                continue;
            }
            let Ok(mut blocks) = function.blocks.try_lock() else { continue };
            if blocks.is_empty() {
                continue;
            }
            // First nobody can find it, then it goes.
            function.address.store(std::ptr::null_mut(), Ordering::Release);
            blocks.clear();
            self.evicted.fetch_add(1, Ordering::Relaxed);
            return;
        }
    }

    fn run(&self, calls: usize) -> Result<(), Error> {
        let work = |thread: usize| {
            let mut n = thread;
            for _ in 0..calls {
                // A full period of the generator goes through all functions.
                n = (n * 421 + 54_773) % FUNCTIONS;
                let got = self.call(n)?;
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
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let calls = std::env::args().nth(1).map_or(Ok(200_000), |word| word.parse())?;
    for mode in [WxMode::Flip, WxMode::DualMap, WxMode::PerThread] {
        let cache = match Cache::new(mode) {
            Ok(cache) => cache,
            Err(refused @ Error::Unsupported { .. }) if mode != WxMode::Flip => {
                println!("{mode:?}: not here: {refused}");
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        cache.run(calls)?;
        let (published, evicted) = (cache.published.load(Ordering::Relaxed), cache.evicted.load(Ordering::Relaxed));
        println!("{mode:?}: {} calls, {published} functions published, {evicted} evicted", calls * THREADS);
        println!("{:#}", cache.arena.stats());
        let Cache { arena, functions, .. } = cache;
        drop(functions);
        arena.trim()?;
        let stats = arena.stats();
        assert_eq!((stats.live_blocks, stats.free_bytes), (0, stats.capacity), "something was lost");
    }
    Ok(())
}
