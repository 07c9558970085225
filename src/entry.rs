//! From an address to a function pointer.

/// # Safety
/// - `F` is a function pointer type that describes the code at `address`.
pub(crate) unsafe fn cast<F: Copy>(address: *const u8) -> F {
    const { assert!(size_of::<F>() == size_of::<*const u8>(), "not the size of a function pointer") };
    // SAFETY: the sizes are the same, and by the caller `F` is a function pointer for this address.
    unsafe { std::mem::transmute_copy(&address) }
}
