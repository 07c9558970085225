//! Pointers of C as what Rust knows: references to handles, slices, strings, and places for
//! results.

use std::borrow::Cow;
use std::ffi::{CStr, c_char};
use std::mem::MaybeUninit;

use crate::failure::Failure;

/// What a handle or another pointer leads to.
///
/// # Safety
/// - Unless it is null, it leads to a live `T` that nobody changes while the reference is used.
pub(crate) unsafe fn shared<'a, T>(pointer: *const T, what: &'static str) -> Result<&'a T, Failure> {
    // SAFETY: passed on to the caller.
    unsafe { pointer.as_ref() }.ok_or(Failure::Null(what))
}

/// The same, to change it.
///
/// # Safety
/// - Unless it is null, it leads to a live `T` that nobody else uses while the reference is used.
pub(crate) unsafe fn exclusive<'a, T>(pointer: *mut T, what: &'static str) -> Result<&'a mut T, Failure> {
    // SAFETY: passed on to the caller.
    unsafe { pointer.as_mut() }.ok_or(Failure::Null(what))
}

/// The place for a result, which need not be initialised.
///
/// # Safety
/// - Unless it is null, a `T` can be written there, and nobody else uses the place while the
///   reference is used.
pub(crate) unsafe fn out<'a, T>(pointer: *mut T, what: &'static str) -> Result<&'a mut MaybeUninit<T>, Failure> {
    // SAFETY: passed on to the caller.
    unsafe { pointer.cast::<MaybeUninit<T>>().as_mut() }.ok_or(Failure::Null(what))
}

/// The place for a handle. It is null until there is one: whoever forgets to look at the status
/// stumbles at once.
///
/// # Safety
/// - As for [`out`].
pub(crate) unsafe fn handle_out<'a, T>(pointer: *mut *mut T, what: &'static str) -> Result<&'a mut *mut T, Failure> {
    // SAFETY: passed on to the caller.
    Ok(unsafe { out(pointer, what)? }.write(std::ptr::null_mut()))
}

/// A handle of a value.
pub(crate) fn handle<T>(value: T) -> *mut T {
    Box::into_raw(Box::new(value))
}

/// Frees a handle; nothing if it is null, as in C.
///
/// # Safety
/// - It is null, or came of [`handle`] and was not freed, and nobody else uses it.
pub(crate) unsafe fn free<T>(handle: *mut T) {
    if !handle.is_null() {
        // SAFETY: passed on to the caller.
        drop(unsafe { Box::from_raw(handle) });
    }
}

/// An array to read. NULL is an array of no elements, if it is said to have none.
///
/// # Safety
/// - Unless it is null, `len` initialised elements lie there, which nobody changes while the slice
///   is used.
pub(crate) unsafe fn slice<'a, T>(start: *const T, len: usize, what: &'static str) -> Result<&'a [T], Failure> {
    match check::<T>(start, len, what)? {
        0 => Ok(&[]),
        // SAFETY: passed on to the caller; it is not null, and not larger than an object can be.
        len => Ok(unsafe { std::slice::from_raw_parts(start, len) }),
    }
}

/// An array to write to.
///
/// # Safety
/// - Unless it is null, `len` elements can be written there, and nobody else uses them while the
///   slice is used.
pub(crate) unsafe fn slice_out<'a, T>(
    start: *mut T,
    len: usize,
    what: &'static str,
) -> Result<&'a mut [MaybeUninit<T>], Failure> {
    match check::<T>(start, len, what)? {
        0 => Ok(&mut []),
        // SAFETY: passed on to the caller; it is not null, and not larger than an object can be.
        len => Ok(unsafe { std::slice::from_raw_parts_mut(start.cast(), len) }),
    }
}

fn check<T>(start: *const T, len: usize, what: &'static str) -> Result<usize, Failure> {
    match len.checked_mul(size_of::<T>()) {
        Some(0) => Ok(0),
        _ if start.is_null() => Err(Failure::Null(what)),
        Some(bytes) if isize::try_from(bytes).is_ok() => Ok(len),
        _ => Err(Failure::Invalid(Cow::Owned(format!("{what} cannot have {len} elements")))),
    }
}

/// A string; `None` for NULL. What is not UTF-8 in it is replaced.
///
/// # Safety
/// - Unless it is null, a zero ends it, and nobody changes it while the result is used.
pub(crate) unsafe fn string<'a>(start: *const c_char) -> Option<Cow<'a, str>> {
    // SAFETY: passed on to the caller; it is not null.
    let text = |start: *const c_char| unsafe { CStr::from_ptr(start) };
    (!start.is_null()).then(|| text(start).to_string_lossy())
}
