//! Tests of the calls that a signal handler may make. The handler interrupts everything that an
//! arena does, makes all of these calls, allocates nothing and never waits.
//!
//! - *In the handler*: `pin`, `lookup`, `lookup_many`, `contains`, the getters of arenas and
//!   blocks, and a call of the function itself.
//! - *Interrupted*: two threads publish, drop, trim, read figures, and build other arenas.
//! - *Checked*: the results are right, the handler ran often enough, and the global allocator
//!   `Watched` saw no allocation in it.
//!
//! There is one test. It exists to catch a lock in a call that is documented as safe in handlers:
//! if the interrupted thread holds the lock, the handler never returns and the test hangs.
//!
//! It runs in a child process and forks once for each mode, because a handler and its statics are
//! those of the process. With a sanitizer it prints `NOT RUN`.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::common::{self, StopOnDrop, asm, child, modes, often, small};
use gaia_jit::{Code, CodeArena, CodeBlock, Error, WxMode};

/// An allocator that notices allocations and releases in the handler.
struct Watched;

static IN_HANDLER: AtomicUsize = AtomicUsize::new(0);
static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

thread_local!(static HANDLING: Cell<bool> = const { Cell::new(false) });

fn note() {
    if HANDLING.try_with(Cell::get).unwrap_or(false) {
        ALLOCATED.fetch_add(1, Ordering::Relaxed);
    }
}

// SAFETY: it passes every call on to the system's allocator.
unsafe impl GlobalAlloc for Watched {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note();
        // SAFETY: the caller promises it.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        note();
        // SAFETY: the caller promises it.
        unsafe { System.dealloc(at, layout) };
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, len: usize) -> *mut u8 {
        note();
        // SAFETY: the caller promises it.
        unsafe { System.realloc(at, layout, len) }
    }
}

#[global_allocator]
static ALLOCATOR: Watched = Watched;

/// The values that the handler uses.
struct Known {
    arena: CodeArena,
    block: CodeBlock,
    batch: Vec<CodeBlock>,
    outside: usize,
}

static KNOWN: OnceLock<Known> = OnceLock::new();
static WRONG: AtomicUsize = AtomicUsize::new(0);

/// Makes every call that the documentation calls safe in a handler.
extern "C" fn handler(_: libc::c_int) {
    let Some(known) = KNOWN.get() else { return };
    HANDLING.with(|handling| handling.set(true));
    let (arena, block) = (&known.arena, &known.block);
    let at = block.as_ptr();
    let outside = std::ptr::without_provenance(known.outside);
    let guard = arena.pin();
    let mut found = [None; 3];
    arena.lookup_many(&[at, outside, known.batch[7].as_ptr()], &mut found);
    let right = arena.lookup(at.wrapping_add(3)).is_some_and(|hit| hit.start == at && hit.tag == 77)
        && arena.lookup(outside).is_none()
        && found[0].is_some_and(|hit| hit.start == at)
        && found[1].is_none()
        && found[2].is_some_and(|hit| hit.tag == 7)
        && arena.contains(at)
        && !arena.contains(outside)
        && arena.capacity() > 0
        && arena.mode() == arena.mode()
        && block.tag() == 77
        // In this mode it is a copy.
        && (arena.mode() == WxMode::PerThread || block.as_bytes().len() == block.len());
    drop(guard);
    // SAFETY: the code is of this type.
    let runs = unsafe { block.as_fn::<extern "C" fn() -> u32>() }() == 3;
    WRONG.fetch_add(usize::from(!right || !runs), Ordering::Relaxed);
    IN_HANDLER.fetch_add(1, Ordering::Relaxed);
    HANDLING.with(|handling| handling.set(false));
}

fn install() {
    // SAFETY: the type is plain data, for which zeros are a value.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as *const () as usize;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: a handler of the right type, for a signal that nothing else uses.
    assert_eq!(unsafe { libc::sigaction(libc::SIGUSR1, &raw const action, std::ptr::null_mut()) }, 0);
}

/// Does everything else that an arena does.
fn work(arena: &CodeArena, seed: u64, stop: &AtomicBool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut blocks: Vec<CodeBlock> = Vec::new();
    let full = |error: &Error| matches!(error, Error::ArenaFull { .. });
    while !stop.load(Ordering::Relaxed) {
        match rng.u32(..12) {
            0..4 => match arena.publish(Code::new(&asm::padded(5, rng.usize(16..900))).tag(5)) {
                Ok(block) => blocks.push(block),
                Err(error) => assert!(full(&error), "{error}"),
            },
            4 => {
                let mut batch = arena.batch();
                let pushed = (0..rng.u32(1..60)).try_for_each(|n| batch.push(&asm::padded(n, 700)).map(drop));
                match pushed.and_then(|()| batch.publish()) {
                    Ok(new) => blocks.extend(new),
                    Err(error) => assert!(full(&error), "{error}"),
                }
            }
            5 => {
                let guard = arena.pin();
                blocks.truncate(blocks.len() / 2);
                drop(guard);
            }
            6 => {
                let _ = arena.trim();
            }
            7 => drop((arena.stats(), arena.map())),
            8 => {
                let other = small(arena.mode()).build();
                assert!(other.is_err() || other.is_ok_and(|other| other.publish(&asm::constant(1)).is_ok()));
            }
            _ if !blocks.is_empty() => drop(blocks.swap_remove(rng.usize(..blocks.len()))),
            _ => {}
        }
    }
}

#[test]
fn a_handler_interrupts_everything() {
    const NAME: &str = "a_handler_interrupts_everything";
    if common::sanitized() {
        return common::not_run(NAME, "sanitizers hold signals back");
    }
    child::run(NAME, || {
        for mode in modes() {
            // A handler belongs to the process, and so do the values that it uses.
            assert!(common::fork::fork(|| interrupt(mode)), "{mode:?}");
        }
    });
}

fn interrupt(mode: WxMode) {
    let arena = small(mode).build().unwrap();
    let block = arena.publish(Code::new(&asm::padded(3, 200)).tag(77)).unwrap();
    let mut batch = arena.batch();
    (0..20).for_each(|n| {
        let slot = batch.push(&asm::constant(n)).unwrap();
        batch.set_tag(slot, n.into());
    });
    let batch = batch.publish().unwrap();
    let outside = (&raw const mode).addr();
    KNOWN.set(Known { arena: arena.clone(), block, batch, outside }).ok().unwrap();
    HANDLING.with(|handling| handling.set(true));
    drop(std::hint::black_box(Box::new(1)));
    HANDLING.with(|handling| handling.set(false));
    assert_eq!(ALLOCATED.swap(0, Ordering::Relaxed), 2, "the allocator notices");
    install();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let _ended = StopOnDrop(&stop);
        let (sender, receiver) = std::sync::mpsc::channel();
        let threads = [0, 1].map(|seed| {
            let (arena, stop, sender) = (&arena, &stop, sender.clone());
            scope.spawn(move || {
                // A pointer in some C libraries, which would not be `Send`.
                // SAFETY: takes nothing.
                sender.send(unsafe { libc::pthread_self() } as usize).unwrap();
                work(arena, seed, stop);
            })
        });
        // They do not end before they are told to.
        let workers = [receiver.recv().unwrap(), receiver.recv().unwrap()];
        // Signals that come before the last one was handled are handled as one.
        let mut sent = 0;
        while sent < often(20_000) || IN_HANDLER.load(Ordering::Relaxed) <= often(100) {
            sent += 1;
            assert!(!threads.iter().any(|thread| thread.is_finished()), "{mode:?}");
            for worker in &workers {
                // SAFETY: the thread runs until it is told to stop, below.
                assert_eq!(unsafe { libc::pthread_kill(*worker as libc::pthread_t, libc::SIGUSR1) }, 0);
            }
            // A handler that waits for the call that it interrupted would never return.
            thread::yield_now();
        }
    });
    let (wrong, allocated) = (WRONG.load(Ordering::Relaxed), ALLOCATED.load(Ordering::Relaxed));
    assert_eq!((wrong, allocated), (0, 0), "{mode:?}");
}
