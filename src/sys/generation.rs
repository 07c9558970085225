//! A number that tells a forked child from its parent, at the price of a load: it is asked for at every publication.

use crate::sync::{AtomicU64, Ordering};

pub(crate) use native::generation;

/// Where the kernel can wipe a page in a child: one word on such a page.
#[cfg(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
))]
mod native {
    use super::{AtomicU64, Ordering};
    use crate::sync::OnceLock;
    use crate::sys::{Result, Span, unix};

    pub(crate) fn generation() -> u64 {
        static WORD: OnceLock<Option<&'static AtomicU64>> = OnceLock::new();
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let Some(word) = WORD.get_or_init(wiped_page) else {
            // Linux before 4.14 and some emulators: ask for the process, at the price of a system call.
            return u64::from(std::process::id()) | 1 << 63;
        };
        match word.load(Ordering::Relaxed) {
            // Copied with the fork, `NEXT` is past every number the parent had given out.
            0 => {
                let new = NEXT.fetch_add(1, Ordering::Relaxed);
                word.compare_exchange(0, new, Ordering::Relaxed, Ordering::Relaxed).map_or_else(|other| other, |_| new)
            }
            generation => generation,
        }
    }

    fn wiped_page() -> Option<&'static AtomicU64> {
        let span = unix::map(region::page::size()).ok()?;
        // SAFETY: mapped just now; zeros in children are what it is for.
        match unsafe { wipe_on_fork(span) } {
            // SAFETY: a mapped page, never unmapped, which begins with eight zero bytes that only atomics touch.
            Ok(()) => Some(unsafe { AtomicU64::from_ptr(span.start.as_ptr().cast()) }),
            Err(_) => {
                // SAFETY: mapped just now and given to nobody.
                let _ = unsafe { unix::release(span) };
                None
            }
        }
    }

    /// # Safety
    /// - `span` is whole pages of a private mapping of the caller's, whose contents no child needs.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    unsafe fn wipe_on_fork(span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::advise(span, libc::MADV_WIPEONFORK) }
    }

    /// # Safety
    /// - As above.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    unsafe fn wipe_on_fork(span: Span) -> Result<()> {
        #[cfg(target_os = "freebsd")]
        use libc::INHERIT_ZERO as ZERO;
        #[cfg(not(target_os = "freebsd"))]
        use libc::MAP_INHERIT_ZERO as ZERO;
        // SAFETY: passed on to the caller.
        unsafe { unix::inherit(span, ZERO) }
    }
}

/// Elsewhere: a count of forks, which the C library keeps by calling us in each child. A child made by a bare system call
/// is not counted.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
mod native {
    use super::{AtomicU64, Ordering};
    use crate::sync::OnceLock;

    static GENERATION: AtomicU64 = AtomicU64::new(1);

    /// Safe in a child of a process with threads: one atomic addition.
    extern "C" fn in_child() {
        GENERATION.fetch_add(1, Ordering::Relaxed);
    }

    unsafe extern "C" {
        fn pthread_atfork(
            prepare: Option<unsafe extern "C" fn()>,
            parent: Option<unsafe extern "C" fn()>,
            child: Option<extern "C" fn()>,
        ) -> libc::c_int;
    }

    pub(crate) fn generation() -> u64 {
        static COUNTS: OnceLock<bool> = OnceLock::new();
        // SAFETY: the function is part of this program and stays as long as it does.
        if *COUNTS.get_or_init(|| unsafe { pthread_atfork(None, None, Some(in_child)) } == 0) {
            GENERATION.load(Ordering::Relaxed)
        } else {
            // No memory for a handler: ask for the process, at the price of a system call.
            u64::from(std::process::id()) | 1 << 63
        }
    }
}
