//! Pages that only the writing thread can write to: protection keys of x86-64, on Linux.
//!
//! ```text
//! page table entry:  rwx, key 5
//! PKRU of thread A:  key 5: read and write     A is inside `WriteWindow::write`
//! PKRU of thread B:  key 5: read               B publishes or pins now and then
//! PKRU of thread C:  key 5: no access          C is older than the key: it can run code, not read it
//! ```
//!
//! The pages have a key. Each thread has a register `PKRU` that says what the thread may do with
//! pages of each key (Intel SDM volume 3, "Protection Keys"; `pkeys(7)`). Fetching instructions is
//! never affected. So the page tables can say "write and execute", while only the thread that is
//! inside [`WriteWindow::write`] is allowed to write.
//!
//! A thread begins with the rights of the thread that spawns it. So threads that are older than the
//! key, and all threads that they spawn, have no rights to it, not even to read. The same holds for
//! each signal handler. They can run code, but cannot read it until [`WriteWindow::let_read`] is
//! called there. The return from a handler restores the rights from before. A jump out of a handler
//! does not.

use std::arch::asm;
use std::io;
use std::ptr::NonNull;

use super::{Refused, Result, Span, Word};

/// A protection key. It is dropped when no page has it any more.
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
            let none = io::Error::new(io::ErrorKind::Unsupported, "this processor, or its system, has none");
            return Err(Refused::new("use of protection keys", none));
        }
        let flags: libc::c_long = 0;
        // SAFETY: it takes two numbers and returns a number.
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
        // SAFETY: the caller owns the pages, and nobody uses them.
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
        // runs in between, not even a signal handler, which has its own rights.
        unsafe { set_rights(others) };
        // SAFETY: passed on to the caller.
        unsafe { at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
        // SAFETY: this thread may read pages of the key, because code may contain its own
        // constants.
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

    /// Lets this thread read the pages, and not write to them.
    pub(crate) fn let_read(&self) {
        let rights = rights();
        if rights & self.all_rights() != self.no_writing() {
            // SAFETY: it grants reading only.
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
        // SAFETY: allocated in `new` and freed once. The pages that had it are unmapped.
        unsafe { libc::syscall(libc::SYS_pkey_free, libc::c_long::from(self.key)) };
    }
}

/// Returns whether the processor and the system have protection keys: CPUID leaf 7, ECX bit 4
/// (`OSPKE`). The system's error does not differ from that for keys that are all in use.
fn enabled() -> bool {
    #[allow(unused_unsafe, reason = "safe in newer compilers")]
    // SAFETY: every processor of this architecture has the instruction.
    let highest = unsafe { std::arch::x86_64::__cpuid(0) }.eax;
    #[allow(unused_unsafe, reason = "as above")]
    // SAFETY: as above.
    let leaf = unsafe { std::arch::x86_64::__cpuid_count(7, 0) };
    highest >= 7 && leaf.ecx & 1 << 4 != 0
}

/// Reads the register `PKRU`. It has two bits for each key: no access, and no writing.
fn rights() -> u32 {
    let rights;
    // SAFETY: a window exists, so there are protection keys and the instruction exists. It reads a
    // register.
    unsafe { asm!("rdpkru", in("ecx") 0, out("eax") rights, out("edx") _, options(nomem, nostack, preserves_flags)) };
    rights
}

/// Sets the register `PKRU`. No access to memory moves across it.
///
/// # Safety
/// - This thread may have these rights until the next call.
unsafe fn set_rights(rights: u32) {
    // SAFETY: as in `rights`. The effect of the rights is passed on to the caller.
    unsafe { asm!("wrpkru", in("eax") rights, in("ecx") 0, in("edx") 0, options(nostack, preserves_flags)) };
}
