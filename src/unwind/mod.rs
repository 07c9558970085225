//! Exceptions, panics and backtraces through code of an arena (feature `unwind`).
//!
//! An [`Unwinder`] registers published functions with the process's own unwinder. It passes on the
//! unwind information from [`Code::unwind`](crate::Code::unwind) or
//! [`Batch::set_unwind`](crate::Batch::set_unwind). Then
//!
//! - a Rust panic or C++ exception passes through frames of these functions, if they were called
//!   with `extern "C-unwind"`;
//! - `std::backtrace`, and profilers inside of the process, see the callers behind these frames.
//!
//! Debuggers do not ask the process's unwinder: give the same information to `observe::Gdb`
//! (feature `gdb`), which passes it on to them.
//!
//! At a function without unwind information all of these end.
//!
//! ```text
//! publish --> check (eh_frame, instructions) --> relocate, copy --> register --> the process's unwinder
//!                 \-- Refusal: counted, not registered
//! drop -----> nothing yet: a thread under a guard may still unwind
//! space is used again --> deregister
//! ```
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
//! # Form of the information
//!
//! | form | systems | registered by |
//! |---|---|---|
//! | [`UnwindInfo::EhFrame`] | Unix, except 32-bit Arm, which has other tables | `__register_frame`, in a layout that libgcc and LLVM's libunwind both accept |
//! | [`UnwindInfo::Windows`] | Windows, x86-64 and AArch64 | one `RtlInstallFunctionTableCallback` for each arena; publishing makes no system call |
//!
//! Call frame information is checked down to its instructions, copied, and relocated to the address
//! of the function. Information that is incomplete, or in another form, is not registered. It is
//! counted ([`Unwinder::refused`]). The *meaning* of the information is trusted, as the code is: a
//! caller of a function promises that its unwind information is true.
//!
//! # Time of registration
//!
//! A function is registered before the call that publishes it returns. It stays registered until
//! its space is used again, so threads that hold a guard can unwind out of functions that were
//! dropped meanwhile.
//!
//! # Fork
//!
//! - In a child, inherited registrations stay, until an arena with an unwinder is built at the same
//!   addresses.
//! - A child that was forked while another thread registered can register nothing, because the
//!   process's unwinder may be in the middle of a change. Its functions are
//!   [refused](Unwinder::last_refusal) at once, as [`Refusal::Forked`]. If this matters, do not
//!   publish while the process forks.
//! - libgcc before 13 takes a lock of its own for each panic, exception and backtrace too. A child
//!   that is forked meanwhile waits for that lock for ever at its first panic, exception or
//!   backtrace. No caller can detect this.
//!
//! # Signal safety
//!
//! No call of this module is safe in a signal handler.
//!
//! A profiler may walk the stack in a handler. libgcc before 13 does part of the work of a
//! registration in the first search after it, and allocates for that. So this module makes a search
//! at once, and blocks signals in the thread that registers until the search is done. After that a
//! handler's search allocates nothing.
//!
//! This is sufficient for a program that publishes on the thread that is sampled. With that libgcc
//! one case remains, in a handler on *another* thread that interrupted `malloc` there:
//!
//! - it walks the stack between the registration and the search, or
//! - it waits for the unwinder's lock, while the search waits for that `malloc`.
//!
//! For such programs, sample from outside (`perf`), walk by frame pointers, or use libgcc 13 or
//! later. Its searches allocate nothing and take no lock.
//!
//! # Costs
//!
//! About 200 bytes for each function. [The design](crate::design#what-it-costs) has the times of
//! panics, publications and drops, with old and new versions of libgcc.

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

/// A handle that registers the functions of arenas with the process's unwinder, as the
/// [module](self) describes. Clones share the registrations.
#[derive(Clone)]
pub struct Unwinder(Arc<Listener>);

/// The observer of the arenas. It is private, because it trusts the events that it gets, and so
/// does the process's unwinder.
struct Listener {
    tables: Tables,
    refused: AtomicU64,
    last: ProcessLock<Option<(BlockInfo, Refusal)>>,
}

impl Unwinder {
    /// Returns an unwinder without registrations.
    ///
    /// [`Unwinder::attach`] has an example.
    ///
    /// # Errors
    /// - [`Error::Unsupported`] if the system's unwinder accepts nothing at run time: on 32-bit
    ///   Arm, on 32-bit Windows, and on systems that are neither Unix nor Windows.
    pub fn new() -> Result<Self, Error> {
        let listener = Listener { tables: Tables::new()?, refused: AtomicU64::new(0), last: ProcessLock::new(None) };
        Ok(Self(Arc::new(listener)))
    }

    /// Registers the functions of the arena from its beginning. One unwinder serves any number of
    /// arenas. If an arena is attached to several unwinders, the last of them registers its
    /// functions, once.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", target_arch = "x86_64"))] {
    /// use gaia_jit::{CodeArena, unwind::Unwinder};
    ///
    /// let unwinder = Unwinder::new()?;
    /// let arena = unwinder.attach(CodeArena::builder().capacity(1 << 20)).build()?;
    /// assert_eq!((unwinder.registered(), unwinder.refused()), (0, 0));
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn attach(&self, builder: ArenaBuilder) -> ArenaBuilder {
        builder.observer(Arc::clone(&self.0) as Arc<dyn Observer>)
    }

    /// Returns the number of functions that are registered now.
    pub fn registered(&self) -> usize {
        self.0.tables.len()
    }

    /// Returns the number of functions that were published with unwind information that was
    /// refused.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Returns the last function that was refused, and the reason. Returns `None` in a child that
    /// was forked while another thread noted a refusal.
    pub fn last_refusal(&self) -> Option<(BlockInfo, Refusal)> {
        self.0.last.lock().and_then(|last| *last)
    }

    /// Checks whether unwind information would be accepted for a function of these bytes.
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
    /// The [`Refusal`] that publishing would count.
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
