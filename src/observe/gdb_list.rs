//! The list of objects that debuggers read: the JIT interface of gdb, which lldb knows too ("JIT
//! Compilation Interface" in gdb's manual).
//!
//! A debugger sets a breakpoint on `__jit_debug_register_code`. Whenever it is called,
//! `__jit_debug_descriptor` says which entry of the list was added or is about to be removed. One
//! that is attached later walks the list.

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

/// The name is the interface's. (The crate's own unit tests are linked with the crate as well,
/// which has the name there.)
#[cfg_attr(not(test), unsafe(no_mangle))]
#[allow(non_upper_case_globals)]
static mut __jit_debug_descriptor: Descriptor =
    Descriptor { version: 1, action: 0, relevant: ptr::null_mut(), first: ptr::null_mut() };

/// Where a debugger stops the program to look. The name is the interface's.
#[cfg_attr(not(test), unsafe(no_mangle))]
#[inline(never)]
extern "C" fn __jit_debug_register_code() {
    // Not an empty function, which a linker could make one with others; and whatever was stored
    // before is in memory.
    std::hint::black_box(&raw const __jit_debug_descriptor);
}

/// Held while the list or the descriptor changes.
static LIST: Mutex<()> = Mutex::new(());

/// An object in the list, until it is dropped.
pub(super) struct Listed {
    entry: NonNull<Entry>,
    /// What the entry points to.
    _file: Vec<u8>,
}

// SAFETY: the entry is reached under the lock of the list alone, and by a debugger, which stops the
// program.
unsafe impl Send for Listed {}

impl Listed {
    /// The same work however long the list is.
    pub(super) fn new(file: Vec<u8>) -> Self {
        let entry =
            Entry { next: ptr::null_mut(), prev: ptr::null_mut(), file: file.as_ptr(), size: file.len() as u64 };
        let entry = NonNull::from(Box::leak(Box::new(entry)));
        let _held = LIST.lock();
        // SAFETY: the descriptor is touched under the lock alone.
        let first = unsafe { __jit_debug_descriptor.first };
        // SAFETY: made above, and known to nobody else.
        unsafe { (*entry.as_ptr()).next = first };
        if !first.is_null() {
            // SAFETY: entries in the list are alive: they leave it, under the lock, before they are
            // freed.
            unsafe { (*first).prev = entry.as_ptr() };
        }
        // SAFETY: the descriptor is touched under the lock alone.
        unsafe { __jit_debug_descriptor.first = entry.as_ptr() };
        announce(REGISTER, entry);
        Self { entry, _file: file }
    }
}

impl Drop for Listed {
    fn drop(&mut self) {
        let held = LIST.lock();
        // SAFETY: in the list, which changes under the lock alone.
        let Entry { next, prev, .. } = unsafe { self.entry.read() };
        if prev.is_null() {
            // SAFETY: the descriptor is touched under the lock alone.
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
        // SAFETY: from a box, out of the list, and nobody else's.
        drop(unsafe { Box::from_raw(self.entry.as_ptr()) });
    }
}

/// Tells a debugger; the lock of the list is held.
fn announce(action: u32, entry: NonNull<Entry>) {
    tell(action, entry.as_ptr());
    __jit_debug_register_code();
    // Nobody is to follow the entry later, when it may be gone.
    tell(0, ptr::null_mut());
}

fn tell(action: u32, relevant: *mut Entry) {
    // SAFETY: the descriptor is touched under the lock of the list alone.
    unsafe { __jit_debug_descriptor.action = action };
    // SAFETY: as above.
    unsafe { __jit_debug_descriptor.relevant = relevant };
}
