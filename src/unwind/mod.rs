//! Exceptions, panics and backtraces through code of an arena (feature `unwind`).
//!
//! An [`Unwinder`] tells the process's own unwinder how to get from published functions to their
//! callers, from what [`Code::unwind`](crate::Code::unwind) or
//! [`Batch::set_unwind`](crate::Batch::set_unwind) said. Then a Rust panic or C++ exception passes
//! through their frames, if they were called with `extern "C-unwind"`, and debuggers, profilers and
//! `std::backtrace` see beyond them. A function without unwind information ends the way of all of
//! these.
//!
//! ```
//! use gaia_jit::CodeArena;
//! use gaia_jit::unwind::Unwinder;
//!
//! let unwinder = Unwinder::new()?;
//! let arena = unwinder.attach(CodeArena::builder().capacity(1 << 20)).build()?;
//! // From here on: `arena.publish(Code::new(&code).unwind(UnwindInfo::EhFrame(&frame)))`.
//! assert_eq!((unwinder.registered(), unwinder.refused()), (0, 0));
//! # Ok::<(), gaia_jit::Error>(())
//! ```
//!
//! # Which form
//!
//! - [`UnwindInfo::EhFrame`] on Unix systems. It is checked, down to the call frame instructions,
//!   copied, and moved to where the function lies, and registered with `__register_frame` in a
//!   layout that libgcc and LLVM's libunwind both take. Not on 32-bit Arm, whose unwinder has other
//!   tables.
//! - [`UnwindInfo::Windows`] on Windows, x86-64 and AArch64: one `RtlInstallFunctionTableCallback`
//!   for each arena, and publishing makes no system call.
//!
//! What is not whole, or in another form, is not registered but counted ([`Unwinder::refused`]).
//! What it *says* is trusted, as the code is: whoever calls a function of an arena promises that
//! its unwind information is true.
//!
//! # When
//!
//! A function is registered before the call that publishes it returns, and until its space is used
//! again: threads that hold a guard can unwind out of functions that were dropped meanwhile.
//!
//! # Forked children
//!
//! In a child what was registered stays so, until an arena with an unwinder comes to lie there. A
//! child that was forked while another thread registered can register nothing, because the
//! process's unwinder may be in the middle of it: its functions are
//! [refused](Unwinder::last_refusal) at once, as [`Refusal::Forked`]. Where that matters, do not
//! publish while the process forks. The unwinder has locks of its own. libgcc before 13 takes one
//! for each panic, exception and backtrace too, and a child that is forked meanwhile waits for it
//! for ever at its own first one; no caller can tell.
//!
//! # Profilers that walk the stack in a signal handler
//!
//! libgcc before 13 does part of the work of a registration in the first search after it, and
//! allocates for it. So a search is made at once, and signals are held off from the thread that
//! registers until it is done. Then nothing is left to allocate for a handler.
//!
//! That is all there is for a program that publishes on the thread that is sampled. With that
//! libgcc one case cannot be closed: a handler on *another* thread, which interrupted `malloc`
//! there, walks the stack between the registration and the search, or waits for the unwinder's lock
//! while the search waits for that `malloc`. Sample such programs from outside (`perf`), or walk by
//! frame pointers, or bring libgcc 13 or later, whose searches allocate nothing and take no lock.
//!
//! # Cost
//!
//! For each function some 200 bytes. libgcc since 13 keeps what is registered in a tree, and all
//! costs little. Older ones (Debian 12 has 12.2) keep lists that every unwinding in the process
//! walks, every deregistration too, and into which what is new is sorted one by one; there
//! functions are registered together, by stretches of the arena (see the source of `frames.rs`).
//! Measured with 12.2, functions of 50 bytes, unoptimised build:
//!
//! | | 10,000 one by one | as tables | 40,000 one by one | as tables | none registered |
//! |---|---|---|---|---|---|
//! | first panic after all were published | 388 ms | 0.03 ms | 8.7 s | 0.03 ms | 0.03 ms |
//! | each one after it | 0.6 to 5 ms | 3.5 µs | 2 to 33 ms | 5 µs | 3 µs |
//! | dropping all of them | 227 ms | 81 ms | 9.5 s | 0.5 s | 2, 4 ms |
//! | publishing one | 4.5 µs | 11 µs | 4.6 µs | 12 µs | 3 µs |
//!
//! The search that follows each registration is in these figures for the first panic. It adds to
//! publishing and dropping less than differs from run to run (optimised build, 10,000 published one
//! by one: 9 µs each with it, 12 µs without).
//!
//! With libgcc 14 and 16 (optimised build) a first panic takes 0.025 ms however many are
//! registered, dropping 40,000 functions 0.1 s. LLVM's libunwind has a list as well, without the
//! sorting, and nothing to register tables with: with version 14 a first panic among 40,000 takes
//! 0.03 ms, later ones up to 0.12 ms, dropping all 0.75 s.

mod refusal;

#[cfg(all(unix, not(target_arch = "arm")))]
mod eh_frame;
#[cfg(all(unix, not(target_arch = "arm")))]
mod instructions;
#[cfg(all(unix, not(target_arch = "arm")))]
mod reader;
#[cfg(all(unix, not(target_arch = "arm")))]
mod registration;

#[cfg(all(unix, not(target_arch = "arm")))]
#[path = "frames.rs"]
mod native;
#[cfg(all(windows, any(target_arch = "x86_64", target_arch = "aarch64")))]
#[path = "windows.rs"]
mod native;
#[cfg(not(any(
    all(unix, not(target_arch = "arm")),
    all(windows, any(target_arch = "x86_64", target_arch = "aarch64"))
)))]
#[path = "unsupported.rs"]
mod native;

#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;

use native::Tables;
pub use refusal::Refusal;

use crate::sync::{Arc, AtomicU64, Ordering};
use crate::sys::process_lock::ProcessLock;
use crate::{ArenaBuilder, BlockInfo, Error, Observer, Published, Reservation, UnwindInfo};

/// Registers the functions of arenas with the process's unwinder; see the [module](self). Clones
/// are the same.
#[derive(Clone)]
pub struct Unwinder(Arc<Listener>);

/// What hears of the arenas. Nobody else has it: what it is told it believes, and so does the
/// process's unwinder.
struct Listener {
    tables: Tables,
    refused: AtomicU64,
    last: ProcessLock<Option<(BlockInfo, Refusal)>>,
}

impl Unwinder {
    /// Nothing is registered yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] where the unwinder takes nothing at run time: on 32-bit Arm and
    /// 32-bit Windows, and on systems that are neither Unix nor Windows.
    pub fn new() -> Result<Self, Error> {
        let listener = Listener { tables: Tables::new()?, refused: AtomicU64::new(0), last: ProcessLock::new(None) };
        Ok(Self(Arc::new(listener)))
    }

    /// Has the arena's functions registered. It serves any number of arenas. An arena that is
    /// attached to several unwinders has its functions registered once, by the last of them.
    pub fn attach(&self, builder: ArenaBuilder) -> ArenaBuilder {
        builder.observer(Arc::clone(&self.0) as Arc<dyn Observer>)
    }

    /// Functions that are registered now.
    pub fn registered(&self) -> usize {
        self.0.tables.len()
    }

    /// Functions that were published with unwind information which could not be taken.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// The last of them, and why. `None` in a child that was forked just as another thread noted
    /// one.
    pub fn last_refusal(&self) -> Option<(BlockInfo, Refusal)> {
        self.0.last.lock().and_then(|last| *last)
    }

    /// Whether unwind information would be taken for a function of these bytes.
    ///
    /// ```
    /// # #[cfg(all(unix, not(target_arch = "arm")))] {
    /// use gaia_jit::UnwindInfo;
    /// use gaia_jit::unwind::{Refusal, Unwinder};
    ///
    /// let nothing = Unwinder::check(UnwindInfo::EhFrame(&[]), &[0xc3]);
    /// assert_eq!(nothing, Err(Refusal::NoFunction));
    /// # }
    /// ```
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn check(info: UnwindInfo<'_>, code: &[u8]) -> Result<(), Refusal> {
        native::check(info, code)
    }
}

impl Observer for Listener {
    fn reserved(&self, space: &Reservation) {
        self.tables.reserved(space);
    }

    fn published(&self, functions: &[Published<'_>]) {
        self.tables.publish(functions, |block, why| {
            self.refused.fetch_add(1, Ordering::Relaxed);
            if let Some(mut last) = self.last.lock() {
                *last = Some((*block, why));
            }
        });
    }

    fn freed(&self, block: &BlockInfo) {
        self.tables.free(block);
    }

    fn released(&self, space: &Reservation) {
        self.tables.released(space);
    }
}

impl fmt::Debug for Unwinder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unwinder")
            .field("registered", &self.registered())
            .field("refused", &self.refused())
            .finish_non_exhaustive()
    }
}
