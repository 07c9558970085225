//! Forked children.

/// Runs `body` in a forked child. Returns whether it ended without an error.
pub fn fork(body: impl FnOnce()) -> bool {
    // SAFETY: the children of these tests need no lock that another thread could hold, because only
    // the test's own thread works in the test process.
    let child = unsafe { libc::fork() };
    if child == 0 {
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_ok();
        // SAFETY: ends the child without running what belongs to the parent.
        unsafe { libc::_exit(if ended { 0 } else { 1 }) };
    }
    let mut status = 0;
    // SAFETY: `status` is valid for the call to write to.
    assert_eq!(unsafe { libc::waitpid(child, &raw mut status, 0) }, child);
    libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0
}
