//! AArch64 on Apple's systems: the caches by Apple's call, the other cores through their threads.
//!
//! `sys_icache_invalidate` makes new code visible to instruction fetches (`sys_cache_control(3)`;
//! Apple, "Porting just-in-time compilers to Apple silicon"). It does not make other cores drop
//! what they fetched before, and there is no `membarrier`. But a thread's registers can be asked
//! for: `thread_get_register_pointer_values` stops the thread for that. A thread that was running
//! is interrupted, and returns to its code through an exception return, which is a context
//! synchronization event (Arm ARM, glossary). A thread that was not running passes one when it
//! continues. The .NET runtime and OpenJDK build their process-wide barriers on this call. Its cost
//! grows with the number of threads.
//!
//! This file was checked by the compiler, and was never run.

use std::ptr;

use crate::Error;

pub(crate) const BARRIERS: bool = true;

type Port = libc::c_uint;
type Status = libc::c_int;

#[allow(non_upper_case_globals, reason = "the system's name")]
unsafe extern "C" {
    fn sys_icache_invalidate(start: *mut libc::c_void, len: libc::size_t);
    static mach_task_self_: Port;
    fn task_threads(task: Port, threads: *mut *mut Port, count: *mut libc::c_uint) -> Status;
    fn thread_get_register_pointer_values(
        thread: Port,
        stack: *mut usize,
        count: *mut libc::size_t,
        values: *mut usize,
    ) -> Status;
    fn mach_port_deallocate(task: Port, name: Port) -> Status;
    fn vm_deallocate(task: Port, address: usize, size: usize) -> Status;
}

pub(super) fn check() -> Result<(), Error> {
    Ok(())
}

/// Makes written bytes visible to instruction fetches.
///
/// # Safety
/// - `len` bytes at `start` are mapped and readable.
pub(crate) unsafe fn flush(start: *const u8, len: usize) -> Result<(), Error> {
    // SAFETY: passed on to the caller.
    unsafe { sys_icache_invalidate(start.cast_mut().cast(), len) };
    Ok(())
}

/// Synchronises all other cores. A thread that begins while this runs was made by a system call
/// after the flush.
pub(crate) fn sync_cores() -> Result<(), Error> {
    // SAFETY: set before `main`, and never changed.
    let task = unsafe { mach_task_self_ };
    let (mut threads, mut count) = (ptr::null_mut(), 0);
    // SAFETY: both are valid for the call to write to.
    if unsafe { task_threads(task, &raw mut threads, &raw mut count) } != 0 {
        return Err(Error::unsupported(
            "executable memory",
            "task_threads is refused, so other cores cannot be synchronised",
        ));
    }
    for index in 0..count as usize {
        // SAFETY: `threads` has `count` names.
        let at = unsafe { threads.add(index) };
        // SAFETY: as above.
        let thread = unsafe { at.read() };
        let (mut stack, mut values, mut size) = (0, [0; 128], 128);
        // SAFETY: all are valid for the call to write to, and `values` is as long as `size` says.
        // The answer, or an error, does not matter: a thread that ended runs no code.
        unsafe { thread_get_register_pointer_values(thread, &raw mut stack, &raw mut size, values.as_mut_ptr()) };
        // SAFETY: `task_threads` returned the name, and it is given back once.
        unsafe { mach_port_deallocate(task, thread) };
    }
    // SAFETY: `task_threads` returned the list, and it is given back once.
    unsafe { vm_deallocate(task, threads.addr(), count as usize * size_of::<Port>()) };
    Ok(())
}
