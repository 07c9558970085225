//! Pages that only the writing thread can write to: `MAP_JIT` memory on Apple Silicon. This file
//! was checked by the compiler, and was never run.
//!
//! Such memory is mapped once for reading, writing and executing. Each thread has one switch for
//! all `MAP_JIT` memory of the process. The switch says whether the thread may write or execute.
//! Threads begin with executing (`pthread_jit_write_protect_np(3)`; Apple, "Porting just-in-time
//! compilers to Apple silicon"). Switching takes no system call.
//!
//! The switch cannot be read. So a thread that other code of the process switched to writing is
//! switched back to executing when it publishes here. A process with the hardened runtime needs the
//! entitlement `com.apple.security.cs.allow-jit`. Without it `mmap` refuses. A process with a list
//! of functions that may write (`com.apple.security.cs.jit-write-allowlist`) is ended by the system
//! when it switches, so it cannot use `PerThread`.

use std::io;
use std::ptr::NonNull;

use super::{Place, Refused, Result, Span, Word, unix};

/// The window. It needs only the thread's switch.
#[derive(Debug)]
pub(crate) struct WriteWindow(());

/// Reserves address space for code as `MAP_JIT` memory, with pages without access around it.
pub(super) fn reserve(place: &Place) -> Result<Span> {
    // SAFETY: it asks for a property of the processor.
    if unsafe { libc::pthread_jit_write_protect_supported_np() } == 0 {
        return Err(Refused::new("pthread_jit_write_protect_np", io::ErrorKind::Unsupported.into()));
    }
    // `MAP_JIT` memory cannot be mapped over an existing mapping (XNU, `mmap`), but other memory
    // can be mapped over it.
    let all = libc::PROT_READ | libc::PROT_WRITE | libc::PROT_EXEC;
    let reservation = unix::reserve_as(place, all, libc::MAP_JIT)?;
    let code = reservation.code(place);
    let before = code.address() - reservation.address();
    // SAFETY: the code lies inside the reservation.
    let end = unsafe { code.start.add(code.len) };
    let ends = [(reservation.start, before), (end, reservation.len - before - code.len)];
    let renewed = ends.into_iter().filter(|(_, len)| *len > 0).try_for_each(|(start, len)| {
        // SAFETY: an end of the reservation, mapped just now, and nobody else has it.
        unsafe { unix::renew(Span { start, len }) }
    });
    renewed.map(|()| reservation).inspect_err(|_| {
        // SAFETY: mapped just now, and nobody else has it.
        let _ = unsafe { unix::release(reservation) };
    })
}

/// Gives memory back. Such pages cannot be mapped over, and keep their protection.
///
/// # Safety
/// - As for [`super::Os::decommit`].
pub(super) unsafe fn decommit(span: Span) -> Result<()> {
    // JavaScriptCore returns its memory with this call. From then on it does not count to this
    // process, and is taken when memory is short.
    for _ in 0..100 {
        // SAFETY: passed on to the caller.
        if unsafe { libc::madvise(span.start.as_ptr().cast(), span.len, libc::MADV_FREE_REUSABLE) } == 0 {
            return Ok(());
        }
        // Busy is no refusal. JavaScriptCore repeats the call too.
        if io::Error::last_os_error().raw_os_error() != Some(libc::EAGAIN) {
            break;
        }
    }
    Err(Refused::last("madvise"))
}

impl WriteWindow {
    /// # Safety
    /// - As for [`super::Os::make_window`].
    #[allow(clippy::unnecessary_wraps, reason = "elsewhere it can be refused")]
    pub(super) unsafe fn new(_span: Span) -> Result<Self> {
        Ok(Self(()))
    }

    /// # Safety
    /// - As for [`super::Os::window_write`].
    pub(super) unsafe fn write(&self, at: NonNull<u8>, bytes: &[u8]) {
        // SAFETY: until the next call this thread cannot run `MAP_JIT` memory, and it runs nothing
        // but the copy. A signal handler in between must not call such code, because the system
        // does not change the thread's switch for it.
        unsafe { libc::pthread_jit_write_protect_np(0) };
        // SAFETY: passed on to the caller.
        unsafe { at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        // SAFETY: restores the state of the thread.
        unsafe { libc::pthread_jit_write_protect_np(1) };
    }

    /// # Safety
    /// - As for [`super::Os::window_store`].
    pub(super) unsafe fn store(&self, at: NonNull<u8>, word: Word) {
        // SAFETY: as in `write`.
        unsafe { libc::pthread_jit_write_protect_np(0) };
        // SAFETY: passed on to the caller.
        unsafe { word.store(at) };
        // SAFETY: restores the state of the thread.
        unsafe { libc::pthread_jit_write_protect_np(1) };
    }

    /// Does nothing, because such pages keep their protection.
    ///
    /// # Safety
    /// - None.
    pub(super) unsafe fn protect(&self, _span: Span, _executable: bool) -> Result<()> {
        super::missing("pages with a window that are not executable")
    }

    /// Does nothing, because every thread may read.
    pub(crate) fn let_read(&self) {}
}
