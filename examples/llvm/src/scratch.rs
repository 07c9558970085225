//! Ordinary memory, for sections that will never run.

use std::alloc::{Layout, alloc_zeroed, dealloc};

/// Zeros at first. Dropped, they are freed.
pub(crate) struct Scratch {
    at: *mut u8,
    layout: Layout,
}

impl Scratch {
    /// `None` if there is no memory, or for an alignment that is no power of two.
    pub(crate) fn new(len: usize, align: usize) -> Option<Self> {
        let layout = Layout::from_size_align(len.max(1), align).ok()?;
        // SAFETY: of one byte at least.
        let at = unsafe { alloc_zeroed(layout) };
        (!at.is_null()).then_some(Self { at, layout })
    }

    pub(crate) fn as_ptr(&self) -> *mut u8 {
        self.at
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // SAFETY: allocated by `new` with this layout, and freed once.
        unsafe { dealloc(self.at, self.layout) };
    }
}
