//! Tests of lookups by unwinders: in signal handlers, in children, after drops.

use gaia_jit::WxMode;
use gaia_jit::unwind::{Refusal, Unwinder};

use crate::frames::{caller, isa};
use crate::{arena, backtrace_addresses, common, publish};

unsafe extern "C" {
    fn _Unwind_Find_FDE(pc: *const u8, bases: *mut [usize; 3]) -> *const u8;
}

/// Returns whether the process's unwinder finds code at `pc`.
fn is_known(pc: *const u8) -> bool {
    let mut bases = [0; 3];
    // SAFETY: the call writes the three addresses of `struct dwarf_eh_bases`.
    !unsafe { _Unwind_Find_FDE(pc, &raw mut bases) }.is_null()
}

/// Returns the bytes that the C library has allocated. No other thread may work meanwhile.
fn given_out() -> usize {
    // SAFETY: has no requirements.
    unsafe { libc::mallinfo2() }.uordblks
}

/// A search in a signal handler that interrupted `malloc` must not allocate.
#[test]
fn nothing_is_left_to_allocate_for_the_first_search() {
    common::child::run("nothing_is_left_to_allocate_for_the_first_search", || {
        let unwinder = Unwinder::new().unwrap();
        let arena = arena(&unwinder, WxMode::Flip);
        let function = caller(&*isa());
        let mut blocks = Vec::with_capacity(100);
        for n in 0..100 {
            blocks.push(publish(&arena, &function));
            if n % 3 == 0 {
                drop(blocks.swap_remove(n / 2));
            }
            let before = given_out();
            assert!(blocks.iter().all(|block| is_known(block.as_ptr().wrapping_add(5))));
            assert!(is_known(is_known as *const u8));
            assert_eq!(given_out(), before);
        }
    });
}

/// A profiler that walks the stack in its handler, while functions are published and dropped.
#[test]
fn a_profiler_may_walk_in_a_signal_handler() {
    const NAME: &str = "a_profiler_may_walk_in_a_signal_handler";
    if std::env::var_os("CROSS_RUNNER").is_some() || common::sanitized() {
        return common::not_run(NAME, "the walk would be the emulator's, or a sanitizer's");
    }
    static SAMPLES: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    extern "C" fn sample(_: libc::c_int) {
        SAMPLES.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // SAFETY: no other thread walks.
        unsafe { backtrace::trace_unsynchronized(|_| true) };
    }
    common::child::run(NAME, || {
        // SAFETY: has no requirements; the signal ends a child that hangs.
        unsafe { libc::alarm(100) };
        // Loads everything that is loaded on first use.
        backtrace_addresses();
        let unwinder = Unwinder::new().unwrap();
        let arena = arena(&unwinder, WxMode::Flip);
        let function = caller(&*isa());
        // SAFETY: the handler makes calls that are as safe in a handler as the tested code.
        unsafe { libc::signal(libc::SIGPROF, sample as *const () as usize) };
        let every = libc::timeval { tv_sec: 0, tv_usec: 500 };
        let timer = libc::itimerval { it_interval: every, it_value: every };
        // SAFETY: the timer is valid to read, and a null pointer asks for no old one.
        unsafe { libc::setitimer(libc::ITIMER_PROF, &raw const timer, std::ptr::null_mut()) };
        let mut live = std::collections::VecDeque::new();
        while SAMPLES.load(std::sync::atomic::Ordering::Relaxed) < 200 {
            live.push_back(publish(&arena, &function));
            if live.len() > 500 {
                live.pop_front();
            }
        }
        assert_eq!((unwinder.registered(), unwinder.last_refusal()), (live.len(), None));
    });
}

/// Children of a process that publishes at that moment either publish, or get an error. None waits
/// for ever.
#[test]
fn children_forked_while_others_publish_go_on() {
    const NAME: &str = "children_forked_while_others_publish_go_on";
    if std::env::var_os("CROSS_RUNNER").is_some() || common::sanitized() {
        return common::not_run(NAME, "emulators and sanitizers have locks of their own");
    }
    common::child::run(NAME, || {
        let unwinder = Unwinder::new().unwrap();
        let function = caller(&*isa());
        let shared = arena(&unwinder, WxMode::Flip);
        let stop = std::sync::atomic::AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                        drop(publish(&shared, &function));
                    }
                });
            }
            let ended = (0..200).filter(|_| {
                common::fork::fork(|| {
                    // SAFETY: has no requirements; the signal ends a child that hangs.
                    unsafe { libc::alarm(60) };
                    let mine = Unwinder::new().unwrap();
                    let arena = arena(&mine, WxMode::Flip);
                    let block = publish(&arena, &function);
                    let told = (mine.registered(), mine.refused(), mine.last_refusal().map(|refusal| refusal.1));
                    assert!(matches!(told, (1, 0, None) | (0, 1, Some(Refusal::Forked))), "{told:?}");
                    drop(block);
                    assert_eq!(unwinder.last_refusal(), None);
                })
            });
            let ended = ended.count();
            stop.store(true, std::sync::atomic::Ordering::Relaxed);
            assert_eq!(ended, 200);
        });
    });
}

#[test]
fn the_unwinder_forgets_what_is_dropped() {
    let unwinder = Unwinder::new().unwrap();
    let arena = arena(&unwinder, WxMode::Flip);
    let function = caller(&*isa());
    let blocks: Vec<_> = (0..3).map(|_| publish(&arena, &function)).collect();
    let places: Vec<_> = blocks.iter().map(|block| block.as_ptr().wrapping_add(5)).collect();
    assert!(places.iter().all(|place| is_known(*place)));
    let mut blocks = blocks.into_iter();
    for (index, place) in places.iter().enumerate() {
        drop(blocks.next());
        assert!(!is_known(*place));
        assert!(places[index + 1..].iter().all(|place| is_known(*place)));
    }
    assert!(is_known(is_known as *const u8));
}
