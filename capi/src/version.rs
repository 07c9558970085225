//! Which library this is.

use std::ffi::c_char;

/// The version of the library, as "0.2.0". The string lives as long as the program.
#[unsafe(no_mangle)]
pub extern "C" fn gaia_jit_version() -> *const c_char {
    const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), "\0");
    VERSION.as_ptr().cast()
}
