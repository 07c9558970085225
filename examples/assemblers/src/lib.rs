//! What the programs share.

/// What the machine code calls in the end.
///
/// In the convention of `sysv64` on every system, so that one piece of x86-64 code serves them all.
#[cfg(target_arch = "x86_64")]
pub extern "sysv64" fn negate(n: i64) -> i64 {
    -n
}

#[cfg(not(target_arch = "x86_64"))]
pub extern "C" fn negate(n: i64) -> i64 {
    -n
}
