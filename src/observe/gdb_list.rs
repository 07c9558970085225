//! The list of objects that debuggers read: the JIT interface of gdb, which lldb supports too ("JIT
//! Compilation Interface" in gdb's manual).
//!
//! A debugger sets a breakpoint on `__jit_debug_register_code`. At each call of that function,
//! `__jit_debug_descriptor` says which entry of the list was added, or is about to be removed. A
//! debugger that is attached later reads the whole list.

use std::ptr::{self, NonNull};

use crate::sync::Mutex;

/// `struct jit_code_entry`.
#[repr(C)]
struct Entry {
    next: *mut Entry,
    prev: *mut Entry,
    file: *const u8,
    size: u64,
}

/// `struct jit_descriptor`.
#[repr(C)]
struct Descriptor {
    version: u32,
    action: u32,
    relevant: *mut Entry,
    first: *mut Entry,
}

const REGISTER: u32 = 1;
const UNREGISTER: u32 = 2;

/// The descriptor. The interface prescribes its name. (The crate's unit tests are linked with the
/// crate, which has the name there.)
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_upper_case_globals)]
static mut __jit_debug_descriptor: Descriptor =
    Descriptor { version: 1, action: 0, relevant: ptr::null_mut(), first: ptr::null_mut() };

/// The function at which a debugger stops the program. The interface prescribes its name.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[inline(never)]
extern "C" fn __jit_debug_register_code() {
    // Not an empty function, because a linker could merge it with others. The black box also makes
    // sure that earlier stores are in memory.
    std::hint::black_box(&raw const __jit_debug_descriptor);
}

/// The lock of the list and the descriptor.
static LIST: Mutex<()> = Mutex::new(());

/// An object in the list, until it is dropped.
pub(super) struct Listed {
    entry: NonNull<Entry>,
    /// The object that the entry points to.
    _file: Vec<u8>,
}

// SAFETY: the entry is accessed only under the lock of the list, and by a debugger, which stops the
// program.
unsafe impl Send for Listed {}

impl Listed {
    /// Adds an object to the list, in constant time.
    pub(super) fn new(file: Vec<u8>) -> Self {
        let entry =
            Entry { next: ptr::null_mut(), prev: ptr::null_mut(), file: file.as_ptr(), size: file.len() as u64 };
        let entry = NonNull::from(Box::leak(Box::new(entry)));
        let _held = LIST.lock();
        // SAFETY: the descriptor is accessed only under the lock.
        let first = unsafe { __jit_debug_descriptor.first };
        // SAFETY: the entry was made above, and nobody else knows it.
        unsafe { (*entry.as_ptr()).next = first };
        if !first.is_null() {
            // SAFETY: entries in the list are alive, because they leave it under the lock before
            // they are freed.
            unsafe { (*first).prev = entry.as_ptr() };
        }
        // SAFETY: the descriptor is accessed only under the lock.
        unsafe { __jit_debug_descriptor.first = entry.as_ptr() };
        announce(REGISTER, entry);
        Self { entry, _file: file }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let held = LIST.lock();
        // SAFETY: the entry is in the list, which changes only under the lock.
        let Entry { next, prev, .. } = unsafe { self.entry.read() };
        if prev.is_null() {
            // SAFETY: the descriptor is accessed only under the lock.
            unsafe { __jit_debug_descriptor.first = next };
        } else {
            // SAFETY: entries in the list are alive.
            unsafe { (*prev).next = next };
        }
        if !next.is_null() {
            // SAFETY: entries in the list are alive.
            unsafe { (*next).prev = prev };
        }
        announce(UNREGISTER, self.entry);
        drop(held);
        // SAFETY: the entry came from a box, and is not in the list any more, so nobody else has
        // it.
        drop(unsafe { Box::from_raw(self.entry.as_ptr()) });
    }
}

/// Reports a change of the list to a debugger. The caller holds the lock of the list.
fn announce(action: u32, entry: NonNull<Entry>) {
    describe(action, entry.as_ptr());
    __jit_debug_register_code();
    // No debugger follows the entry later, when it may be freed.
    describe(0, ptr::null_mut());
}

fn describe(action: u32, relevant: *mut Entry) {
    // SAFETY: the descriptor is accessed only under the lock of the list.
    unsafe { __jit_debug_descriptor.action = action };
    // SAFETY: the descriptor is accessed only under the lock of the list, as above.
    unsafe { __jit_debug_descriptor.relevant = relevant };
}
