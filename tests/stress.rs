//! A stress test of everything at once. Threads publish, call, drop, patch, trim, look up and pin
//! in one small arena. Meanwhile processes are forked, and arenas are built until memory runs out.
//! At the end the arena's figures have to be those that the threads counted, and nothing may be
//! left behind.
//!
//! The seed decides about poisoning and huge pages.
//!
//! - `GAIA_TEST_STRESS_OPS` sets how many operations all threads make together in each mode
//!   (100,000 unless set).
//! - `GAIA_TEST_STRESS_SEED` sets the seed that a failed run printed. Threads interleave freely, so
//!   a seed makes a run similar, not equal.
#![cfg(target_os = "linux")]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread;

use common::maps::mappings;
use common::{LARGE, asm, call, call_at, child, modes, small};
use fastrand::Rng;
use gaia_jit::{Batch, Code, CodeArena, CodeBlock, Error, Unfilled, WxMode};

const THREADS: usize = 4;
const SLOTS: usize = 64;
const CAPACITY: usize = 5 << 19;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Returns a function that returns `value`. Its other bytes depend on the value as well, to the
/// last one.
fn function(value: u32, len: usize) -> Vec<u8> {
    let mut code = asm::constant(value);
    code.resize(len, value as u8 | 1);
    code
}

/// The shared functions, which any thread may replace or call, as offset and result in one word.
struct Shared {
    arena: CodeArena,
    base: usize,
    slots: [AtomicU64; SLOTS],
    full: AtomicUsize,
    calls: AtomicUsize,
    forks: AtomicUsize,
}

/// The state of one thread.
struct Worker<'s> {
    number: usize,
    shared: &'s Shared,
    rng: Rng,
    /// The thread's own blocks and their results.
    blocks: Vec<(CodeBlock, u32)>,
    /// The blocks in slots, by slot.
    shown: Vec<(usize, CodeBlock)>,
}

impl Worker<'_> {
    fn code(&mut self) -> (Vec<u8>, u32) {
        let value = self.rng.u32(1..32_000);
        let len = if self.rng.u8(..) == 0 { self.rng.usize(5_000..80_000) } else { self.rng.usize(40..1_200) };
        (function(value, len), value)
    }

    /// Makes room if the arena is full.
    fn evict(&mut self) {
        self.shared.full.fetch_add(1, Ordering::Relaxed);
        let keep = self.blocks.len() / 2;
        self.rng.shuffle(&mut self.blocks);
        self.blocks.truncate(keep);
    }

    fn publish(&mut self) {
        let (code, value) = self.code();
        match self.shared.arena.publish(Code::new(&code).tag(value.into())) {
            Ok(block) => self.blocks.push((block, value)),
            Err(Error::ArenaFull { .. }) => self.evict(),
            Err(other) => panic!("{other}"),
        }
    }

    fn publish_batch(&mut self) {
        let mut batch = self.shared.arena.batch();
        let mut values = Vec::new();
        for _ in 0..self.rng.usize(1..100) {
            let (code, value) = self.code();
            match push(&mut batch, &code, value) {
                Ok(()) => values.push(value),
                Err(Error::ArenaFull { .. }) => return self.evict(),
                Err(other) => panic!("{other}"),
            }
        }
        if self.rng.bool() {
            self.blocks.extend(batch.publish().unwrap().into_iter().zip(values));
        }
    }

    /// Stores a block where other threads call it, and retires the old one. Each thread has its own
    /// slots for this.
    fn show(&mut self) {
        let Some((block, value)) = self.blocks.pop() else { return };
        let slot = self.rng.usize(..SLOTS / THREADS) * THREADS + self.number;
        let word = (block.as_ptr().addr() - self.shared.base) as u64 | u64::from(value) << 32;
        self.shared.slots[slot].store(word, Ordering::Release);
        match self.shown.iter_mut().find(|(taken, _)| *taken == slot) {
            Some((_, old)) => drop(std::mem::replace(old, block)),
            None => self.shown.push((slot, block)),
        }
    }

    fn call_any(&mut self) {
        let guard = self.shared.arena.pin();
        let words: Vec<u64> = (0..self.rng.usize(1..20))
            .map(|_| self.shared.slots[self.rng.usize(..SLOTS)].load(Ordering::Acquire))
            .filter(|word| *word != 0)
            .collect();
        if self.rng.u8(..) < 64 {
            // Time for other threads to drop the loaded function, and to publish.
            thread::yield_now();
        }
        for word in words {
            let (at, value) = ((self.shared.base + word as u32 as usize) as *const u8, (word >> 32) as u32);
            assert_eq!(call_at(at), value, "another function's code ran");
            // The block may be dropped by now. While the guard lives, no other block begins here.
            if let Some(hit) = self.shared.arena.lookup(at.wrapping_add(3)) {
                assert_eq!((hit.start, hit.tag), (at, u64::from(value)));
            }
            self.shared.calls.fetch_add(1, Ordering::Relaxed);
        }
        drop(guard);
    }

    fn check_own(&mut self) {
        for (block, value) in &self.blocks {
            assert_eq!(call(block), *value);
            assert!(block.as_bytes() == function(*value, block.len()), "a neighbour's bytes");
            let inside = block.as_ptr().wrapping_add(self.rng.usize(..block.len()));
            let hit = self.shared.arena.lookup(inside).unwrap();
            assert_eq!((hit.start, hit.len, hit.tag), (block.as_ptr(), block.len(), u64::from(*value)));
        }
    }

    /// Forks a child, which runs inherited code, changes nothing, and is refused the other calls.
    fn fork(&mut self) {
        // SAFETY: the child calls nothing that takes a lock of another thread's, and ends by
        // `_exit`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0);
        if pid == 0 {
            let runs = self.blocks.iter().take(50).all(|(block, value)| call(block) == *value);
            let refused = matches!(self.shared.arena.publish(&[0][..]), Err(Error::Forked { .. }));
            // SAFETY: ends the child at once.
            unsafe { libc::_exit(if runs && refused { 0 } else { 1 }) };
        }
        let mut status = -1;
        // SAFETY: `status` is valid for the call to write to.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        assert_eq!(status, 0, "the child died or disagreed");
        self.shared.forks.fetch_add(1, Ordering::Relaxed);
    }

    fn step(&mut self) {
        match self.rng.u32(..1_000) {
            0..300 => self.publish(),
            300..310 => self.publish_batch(),
            310..520 if !self.blocks.is_empty() => {
                let at = self.rng.usize(..self.blocks.len());
                self.blocks.swap_remove(at);
            }
            520..700 => self.show(),
            700..950 => self.call_any(),
            950..955 => self.check_own(),
            955..960 => drop(self.shared.arena.stats()),
            960 => drop(self.shared.arena.trim().unwrap()),
            990 => {
                // Refused on systems without huge pages, or without code to move into one.
                let _ = self.shared.arena.collapse();
            }
            991..995 => {
                let Some((block, value)) = self.blocks.pop() else { return };
                let raw = block.into_raw();
                // SAFETY: given up just now, and taken back once.
                self.blocks.push((unsafe { self.shared.arena.from_raw(raw).unwrap() }, value));
            }
            961..990 if !self.blocks.is_empty() => {
                let at = self.rng.usize(..self.blocks.len());
                let value = self.rng.u32(1..32_000);
                let (block, old) = &mut self.blocks[at];
                // SAFETY: the block is this thread's own, and nobody else runs it.
                match unsafe { block.patch(0, &asm::constant(value)) } {
                    // Its tag contains the value that it was published with.
                    Ok(()) => {
                        // SAFETY: as above.
                        unsafe { block.patch(0, &asm::constant(*old)).unwrap() };
                    }
                    Err(Error::Unsupported { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
            }
            999 if self.rng.u8(..) < 50 => self.fork(),
            _ => {}
        }
    }
}

fn push(batch: &mut Batch, code: &[u8], value: u32) -> Result<(), Error> {
    let slot = batch.reserve(code.len(), 16)?;
    batch.bytes_mut(slot).copy_from_slice(code);
    batch.set_tag(slot, value.into());
    Ok(())
}

/// Builds arenas of other users until the system has no memory for more; and again.
fn exhaust(stop: &AtomicBool) -> usize {
    let mut rounds = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut arenas = Vec::new();
        while let Ok(arena) = CodeArena::builder().capacity(LARGE).build() {
            assert_eq!(call(&arena.publish(&asm::constant(4)).unwrap()), 4);
            arenas.push(arena);
        }
        assert!(!arenas.is_empty());
        rounds += 1;
        thread::yield_now();
    }
    rounds
}

/// Returns whether the address space could be limited. Some emulators do not support it.
fn limit_address_space() -> bool {
    let bytes = if cfg!(target_pointer_width = "64") { 1 << 30 } else { 400 << 20 };
    let used = memory(0);
    let limit = libc::rlimit { rlim_cur: (used + bytes) as _, rlim_max: (used + bytes) as _ };
    // SAFETY: `limit` is valid for the call to read.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) } == 0;
    set && CodeArena::builder().capacity(32 << 20).build().is_ok_and(|_| {
        let mut arenas: Vec<CodeArena> = Vec::new();
        arenas.extend((0..100).map_while(|_| CodeArena::builder().capacity(LARGE).build().ok()));
        arenas.len() < 100
    })
}

fn run(mode: WxMode, operations: u64, seed: u64, exhausts: bool) {
    let builder = CodeArena::builder().mode(mode).capacity(CAPACITY);
    let arena = builder.poison(seed % 2 == 1).huge_pages(seed & 2 == 2).build().unwrap();
    let first = arena.publish(&asm::constant(1)).unwrap();
    let base = (0..).map(|n| first.as_ptr().addr() - n).find(|at| !arena.contains((at - 1) as *const u8)).unwrap();
    drop(first);
    let shared = Shared {
        arena,
        base,
        slots: [const { AtomicU64::new(0) }; SLOTS],
        full: AtomicUsize::new(0),
        calls: AtomicUsize::new(0),
        forks: AtomicUsize::new(0),
    };
    let stop = AtomicBool::new(false);
    let mut rounds = 0;
    thread::scope(|scope| {
        let exhausting = exhausts.then(|| scope.spawn(|| exhaust(&stop)));
        let workers: Vec<_> = (0..THREADS)
            .map(|number| {
                let shared = &shared;
                scope.spawn(move || {
                    let rng = Rng::with_seed(seed + number as u64);
                    let mut worker = Worker { number, shared, rng, blocks: Vec::new(), shown: Vec::new() };
                    (0..operations / THREADS as u64).for_each(|_| worker.step());
                    worker.check_own();
                    (worker.blocks, worker.shown)
                })
            })
            .collect();
        let kept: Vec<_> = workers.into_iter().map(|worker| worker.join().unwrap()).collect();
        stop.store(true, Ordering::Relaxed);
        rounds = exhausting.map_or(0, |exhausting| exhausting.join().unwrap());
        // The arena's figures are compared with the blocks of the threads.
        let blocks = || {
            kept.iter()
                .flat_map(|(own, shown)| own.iter().map(|(block, _)| block).chain(shown.iter().map(|(_, block)| block)))
        };
        let stats = shared.arena.stats();
        assert_eq!(stats.live_blocks, blocks().count());
        assert_eq!(stats.live_bytes, blocks().map(CodeBlock::len).sum::<usize>());
        assert_eq!((stats.pending_blocks, stats.batch_bytes), (0, 0), "{stats}");
        assert_eq!(stats.live_bytes + stats.padding_bytes + stats.free_bytes, stats.capacity, "{stats}");
    });
    shared.arena.trim().unwrap();
    let stats = shared.arena.stats();
    assert_eq!((stats.live_blocks, stats.free_bytes, stats.largest_hole), (0, CAPACITY, CAPACITY), "{stats}");
    assert_eq!(stats.resident_bytes, 0, "{stats}");
    let (full, calls, forks) = (shared.full.into_inner(), shared.calls.into_inner(), shared.forks.into_inner());
    println!(
        "{mode:?}: {operations} operations, {calls} calls, {full} times full, {forks} forks, {rounds} times out of memory"
    );
    assert!(calls > 0 && (full > 0 && forks > 0 || operations < 50_000));
}

/// Returns a figure of `/proc/self/statm` in bytes: 0 is address space, 1 is resident memory. Under
/// an emulator these are the emulator's, and may be larger than a word of the program.
fn memory(figure: usize) -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(figure).unwrap().parse::<u64>().unwrap() * region::page::size() as u64
}

/// Makes the allocator return the memory that it keeps.
fn keep_nothing_cached() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: gives back memory that nobody has.
    let _ = unsafe { libc::malloc_trim(0) };
}

/// A function that prepares the child before it begins. It returns whether that succeeded.
type Before = fn() -> bool;

fn all_at_once(name: &str, mode: WxMode, prepare: Before) {
    if !modes().any(|available| available == mode) {
        return common::not_run(name, "this system does not have the mode");
    }
    let operations = setting("GAIA_TEST_STRESS_OPS", 100_000);
    let seed = setting("GAIA_TEST_STRESS_SEED", fastrand::u64(..1 << 40));
    let output = child::output(name, || {
        println!("seed {seed}");
        if !prepare() {
            return common::not_run(name, "this process may not filter its system calls");
        }
        if common::sanitized() {
            common::not_run(name, "at a limit of memory, and a look at what is left, which sanitizers do not survive");
        }
        let exhausts = !common::sanitized() && limit_address_space();
        keep_nothing_cached();
        // Memory that the process keeps after such a run: allocators, thread stacks, tables.
        run(mode, operations / 10, seed, exhausts);
        keep_nothing_cached();
        let before = (mappings(0, usize::MAX / 2).len(), memory(1));
        run(mode, operations, seed, exhausts);
        keep_nothing_cached();
        let after = (mappings(0, usize::MAX / 2).len(), memory(1));
        println!("mappings {} -> {}, resident {} -> {}", before.0, after.0, before.1, after.1);
        assert!(after.0 <= before.0 + 40, "mappings were left behind");
        // An emulator keeps translated code, a sanitizer its records.
        if !common::sanitized() && common::own_kernel(name) && common::small_pages(name) {
            // Other allocators cannot be made to return the memory that they keep.
            let slack = if cfg!(target_env = "gnu") { 1 << 20 } else { 8 << 20 };
            assert!(after.1 <= before.1 + slack, "memory was left behind");
        }
    });
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{:?}\n{out}\n{err}", output.status);
    print!("{out}");
}

#[test]
fn flip() {
    all_at_once("flip", WxMode::Flip, || true);
}

/// Tests every publication in pages of its own.
#[test]
fn flip_without_the_kernel_write() {
    all_at_once("flip_without_the_kernel_write", WxMode::Flip, || {
        let denied = common::sandbox::deny_kernel_writes();
        let stats = small(WxMode::Flip).build().unwrap().stats();
        assert!(!denied || !stats.fills_holes && stats.unfilled == Some(Unfilled::NotWritten), "{:?}", stats.unfilled);
        denied
    });
}

#[test]
fn dual_map() {
    all_at_once("dual_map", WxMode::DualMap, || true);
}

#[test]
fn per_thread() {
    all_at_once("per_thread", WxMode::PerThread, || true);
}

#[test]
fn file_write() {
    all_at_once("file_write", WxMode::FileWrite, || true);
}
