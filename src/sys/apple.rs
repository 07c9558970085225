//! macOS and Apple's other systems. This file was checked by the compiler, and was never run.
//!
//! `Flip` maps memory writable and makes it executable later, without `MAP_JIT`. On Intel that is
//! always allowed without the hardened runtime. On Apple Silicon it is allowed too, by all reports:
//! only *both at once* is refused there (CPython's JIT, pull request 113465, and Wasmtime, issue
//! 11989, do it this way). A process with the hardened runtime needs the entitlement
//! `com.apple.security.cs.allow-unsigned-executable-memory`. Without it building an arena returns
//! an error that names the refused call.
//!
//! `DualMap` makes a second view of anonymous memory by `mach_vm_remap` (as .NET does on Intel, and
//! QEMU's split buffers on both). It limits the greatest protection of each view to its own, so
//! that neither can become the other. Children do not inherit the writable view
//! (`VM_INHERIT_NONE`). They share the executable one.

use std::io;
use std::ptr::NonNull;

use super::{Access, Os, Place, Refused, Result, Span, missing, unix};
use crate::sync::OnceLock;

/// The real system.
#[derive(Debug)]
pub(crate) struct Native;

/// A writer through the kernel. It cannot be made here.
#[derive(Debug)]
pub(crate) enum KernelWriter {}

/// The writable view, if it exists. The other view is made from it.
#[derive(Debug)]
pub(crate) struct SharedMemory(OnceLock<Span>);

type Port = libc::c_uint;
type Status = libc::c_int;

/// `VM_FLAGS_OVERWRITE` of `mach/vm_statistics.h`: it replaces existing mappings. A fixed address
/// needs no flag.
const OVERWRITE: libc::c_int = 0x4000;

#[allow(non_upper_case_globals, reason = "the system's name")]
unsafe extern "C" {
    static mach_task_self_: Port;
    fn mach_vm_remap(
        target: Port,
        address: *mut u64,
        size: u64,
        mask: u64,
        flags: libc::c_int,
        source: Port,
        source_address: u64,
        copy: libc::c_int,
        current: *mut libc::c_int,
        greatest: *mut libc::c_int,
        inheritance: libc::c_uint,
    ) -> Status;
    fn mach_vm_protect(task: Port, address: u64, size: u64, greatest: libc::c_int, protection: libc::c_int) -> Status;
}

/// Converts Mach's answer to an error of the kind that a policy's refusal has.
fn succeeded(call: &'static str, status: Status) -> Result<()> {
    let kind = match status {
        0 => return Ok(()),
        2 => io::ErrorKind::PermissionDenied, // KERN_PROTECTION_FAILURE
        3 => io::ErrorKind::OutOfMemory,      // KERN_NO_SPACE
        _ => io::ErrorKind::Other,
    };
    Err(Refused::new(call, io::Error::new(kind, format!("kern_return_t {status}"))))
}

fn task() -> Port {
    // SAFETY: set before `main`, and never changed.
    unsafe { mach_task_self_ }
}

/// Makes `access` the protection of pages, and the greatest that they can ever have.
///
/// # Safety
/// - As for [`Os::protect`].
unsafe fn narrow(span: Span, access: Access) -> Result<()> {
    let protection = libc::PROT_READ
        | match access {
            Access::ReadWrite => libc::PROT_WRITE,
            Access::ReadExecute | Access::ReadExecuteLanding => libc::PROT_EXEC,
            Access::Read => 0,
        };
    let (start, len) = (span.address() as u64, span.len as u64);
    // SAFETY: passed on to the caller.
    succeeded("mach_vm_protect", unsafe { mach_vm_protect(task(), start, len, 0, protection) })?;
    // SAFETY: as above. The pages have this protection already.
    succeeded("mach_vm_protect", unsafe { mach_vm_protect(task(), start, len, 1, protection) })
}

/// Maps the memory of the writable view a second time, over reserved pages.
///
/// # Safety
/// - `code` is pages of a reservation that the caller owns, and nobody uses them. It is as long as
///   `writable`.
unsafe fn map_again(writable: Span, code: Span) -> Result<()> {
    let (mut at, mut current, mut greatest) = (code.address() as u64, 0, 0);
    let (len, from) = (code.len as u64, writable.address() as u64);
    let inheritance = libc::VM_INHERIT_SHARE as libc::c_uint;
    // SAFETY: passed on to the caller. The results are valid for the call to write to.
    let status = unsafe {
        mach_vm_remap(
            task(),
            &raw mut at,
            len,
            0,
            OVERWRITE,
            task(),
            from,
            0,
            &raw mut current,
            &raw mut greatest,
            inheritance,
        )
    };
    succeeded("mach_vm_remap", status)?;
    // Until here it was as writable as its original, at an address that nobody knows.
    // SAFETY: pages of the new view, which nobody uses yet.
    unsafe { narrow(code, Access::ReadExecute)? };
    // Only after that, because a view has no more rights than the one it is made from.
    // SAFETY: the writable view's pages stay writable.
    unsafe { narrow(writable, Access::ReadWrite) }
}

impl Os for Native {
    fn page_size(&self) -> usize {
        unix::page_size()
    }

    fn returns_shared(&self) -> bool {
        false
    }

    fn map(&self, len: usize) -> Result<Span> {
        unix::map(len)
    }

    fn reserve(&self, place: &Place) -> Result<Span> {
        unix::reserve(place)
    }

    #[cfg(all(target_os = "macos", target_arch = "aarch64"))]
    fn reserve_window(&self, place: &Place) -> Result<Span> {
        super::window::reserve(place)
    }

    #[cfg(all(target_os = "macos", target_arch = "aarch64"))]
    unsafe fn decommit_window(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { super::window::decommit(span) }
    }

    unsafe fn protect(&self, span: Span, access: Access) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::protect(span, access) }
    }

    unsafe fn decommit(&self, span: Span) -> Result<()> {
        // `MADV_FREE_REUSABLE` and `MADV_ZERO` require writable pages, and these are not writable.
        // SAFETY: passed on to the caller, who does not need the contents any more.
        unsafe { unix::renew(span) }
    }

    unsafe fn release(&self, span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::release(span) }
    }

    fn open_kernel_writer(&self) -> Result<KernelWriter> {
        missing("kernel write")
    }

    unsafe fn kernel_write(&self, writer: &KernelWriter, _at: NonNull<u8>, _bytes: &[u8]) -> Result<()> {
        match *writer {}
    }

    fn kernel_read(&self, writer: &KernelWriter, _at: NonNull<u8>, _bytes: &mut [u8]) -> Result<()> {
        match *writer {}
    }

    fn share(&self, _len: usize) -> Result<SharedMemory> {
        Ok(SharedMemory(OnceLock::new()))
    }

    fn map_executable(&self, memory: &SharedMemory, place: &Place, _access: Access) -> Result<Span> {
        let writable =
            *memory.0.get().ok_or_else(|| Refused::new("mach_vm_remap", io::ErrorKind::InvalidInput.into()))?;
        let reservation = unix::reserve(place)?;
        // SAFETY: pages of the reservation, made just now, and nobody else has it. The view is as
        // long as the code.
        let mapped = unsafe { map_again(writable, reservation.code(place)) };
        mapped.map(|()| reservation).inspect_err(|_| {
            // SAFETY: as above.
            let _ = unsafe { unix::release(reservation) };
        })
    }

    fn map_writable(&self, memory: &SharedMemory, len: usize) -> Result<Span> {
        let span = unix::map(len)?;
        // SAFETY: mapped just now. It takes the pages from children only.
        unsafe { unix::inherit(span, libc::VM_INHERIT_NONE) }.inspect_err(|_| {
            // SAFETY: mapped just now, and nobody else has it.
            let _ = unsafe { unix::release(span) };
        })?;
        Ok(*memory.0.get_or_init(|| span))
    }
}
