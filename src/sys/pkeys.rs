//! Pages that only the writing thread can write to: protection keys of x86-64, on Linux.
//!
//! The pages carry a key, and each thread's register `PKRU` says what the thread may do with pages
//! of each key (Intel SDM volume 3, "Protection Keys"; `pkeys(7)`). Fetching instructions is never
//! affected, so the page tables can say "write and execute" while no thread is allowed to write but
//! the one that is inside [`WriteWindow::write`].
//!
//! A thread begins with the rights of the thread that spawns it. So threads that were there before
//! the key, and all that they spawn, have all rights to it denied, reading included; and so has
//! each signal handler. They can run code, but not read it, until [`WriteWindow::let_read`] is
//! called there. A return from a handler restores the rights of before; a jump out of one does not.

use std::arch::asm;
use std::io;
use std::ptr::NonNull;

use super::{Refused, Result, Span, Word};

/// A protection key. Dropped when nothing carries it any more.
#[derive(Debug)]
pub(crate) struct WriteWindow {
    key: u32,
}

/// From the kernel's `asm-generic/mman-common.h`.
const PKEY_DISABLE_WRITE: libc::c_long = 2;

impl WriteWindow {
    /// # Safety
    /// - As for [`super::Os::make_window`].
    pub(super) unsafe fn new(span: Span) -> Result<Self> {
        if !enabled() {
            return Err(Refused::new("protection keys", io::ErrorKind::Unsupported.into()));
        }
        let flags: libc::c_long = 0;
        // SAFETY: two numbers go in, a number comes out.
        let window = match u32::try_from(unsafe { libc::syscall(libc::SYS_pkey_alloc, flags, PKEY_DISABLE_WRITE) }) {
            Ok(key) => Self { key },
            Err(_) => {
                let refused = Refused::last("pkey_alloc");
                return Err(match refused.source.raw_os_error() {
                    Some(libc::ENOSPC) => {
                        let why = "all keys of the process are taken (it has 15, and each arena takes one)";
                        Refused::new("pkey_alloc", io::Error::new(io::ErrorKind::Unsupported, why))
                    }
                    _ => refused,
                });
            }
        };
        // SAFETY: the pages are the caller's and nobody uses them.
        unsafe { window.protect(span, true) }.map(|()| window)
    }

    /// # Safety
    /// - As for [`super::Os::protect_window`].
    pub(super) unsafe fn protect(&self, span: Span, executable: bool) -> Result<()> {
        let execute = if executable { libc::PROT_EXEC } else { 0 };
        let protection = libc::c_long::from(libc::PROT_READ | libc::PROT_WRITE | execute);
        let key = libc::c_long::from(self.key);
        // SAFETY: passed on to the caller. With the key nobody can write there outside of a window.
        match unsafe { libc::syscall(libc::SYS_pkey_mprotect, span.start.as_ptr(), span.len, protection, key) } {
            0 => Ok(()),
            _ => Err(Refused::last("pkey_mprotect")),
        }
    }

    /// # Safety
    /// - As for [`super::Os::window_write`].
    pub(super) unsafe fn write(&self, at: NonNull<u8>, bytes: &[u8]) {
        let others = rights() & !self.all_rights();
        // SAFETY: for the next three lines this thread may write to pages of the key. Nothing else
        // runs in between: not even a signal handler, which has rights of its own.
        unsafe { set_rights(others) };
        // SAFETY: passed on to the caller.
        unsafe { at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        // SAFETY: this thread may read pages of the key, as code may that holds its own constants.
        unsafe { set_rights(others | self.no_writing()) };
    }

    /// # Safety
    /// - As for [`super::Os::window_store`].
    pub(super) unsafe fn store(&self, at: NonNull<u8>, word: Word) {
        let others = rights() & !self.all_rights();
        // SAFETY: as in `write`.
        unsafe { set_rights(others) };
        // SAFETY: passed on to the caller.
        unsafe { word.store(at) };
        // SAFETY: as in `write`.
        unsafe { set_rights(others | self.no_writing()) };
    }

    /// This thread may read the pages, and not write to them.
    pub(crate) fn let_read(&self) {
        let rights = rights();
        if rights & self.all_rights() != self.no_writing() {
            // SAFETY: grants reading alone.
            unsafe { set_rights(rights & !self.all_rights() | self.no_writing()) };
        }
    }

    fn all_rights(&self) -> u32 {
        3 << (2 * self.key)
    }

    fn no_writing(&self) -> u32 {
        2 << (2 * self.key)
    }
}

impl Drop for WriteWindow {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` and freed once; the pages that carried it are gone.
        unsafe { libc::syscall(libc::SYS_pkey_free, libc::c_long::from(self.key)) };
    }
}

/// Whether processor and system have protection keys: CPUID leaf 7, ECX bit 4 (`OSPKE`). The
/// system's error does not tell this from keys that are all in use.
fn enabled() -> bool {
    #[allow(unused_unsafe, reason = "safe in newer compilers")]
    // SAFETY: every processor of this architecture has the instruction.
    let highest = unsafe { std::arch::x86_64::__cpuid(0) }.eax;
    #[allow(unused_unsafe, reason = "as above")]
    // SAFETY: as above.
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(7, 0) };
    highest >= 7 && leaf.ecx & 1 << 4 != 0
}

/// The register `PKRU`: for each key two bits, no access and no writing.
fn rights() -> u32 {
    let rights;
    // SAFETY: there are protection keys, as a window exists, so the instruction exists; it reads a
    // register.
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _, options(nomem, nostack, preserves_flags)) };
    rights
}

/// Sets the register `PKRU`. No access to memory moves across it.
///
/// # Safety
/// - This thread may have these rights until it is called again.
unsafe fn set_rights(rights: u32) {
    // SAFETY: as in `rights`; what the rights allow is passed on to the caller.
    unsafe { asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags)) };
}
