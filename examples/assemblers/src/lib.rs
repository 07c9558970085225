//! The function that all programs call.

/// Returns its argument negated. The machine code calls it in the end.
///
/// It uses the `sysv64` convention on every system, so that one piece of x86-64 code serves all of
/// them.
#[cfg(target_arch = "x86_64")]
pub extern "sysv64" fn negate(n: i64) -> i64 {
    -n
}

#[cfg(not(target_arch = "x86_64"))]
pub extern "C" fn negate(n: i64) -> i64 {
    -n
}
