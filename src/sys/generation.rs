//! A number that tells a forked child from its parent, at the price of a load: it is asked for at
//! every publication.

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
    use crate::sync::AtomicPtr;
    use crate::sys::{Result, Span, unix};

    /// The word, or where there is none [`NONE`]; null until it was looked for. No lock: a child
    /// could inherit it held.
    static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
    static NONE: AtomicU64 = AtomicU64::new(0);

    pub(crate) fn generation() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Acquire: it was made before it was put there.
        let mut word = WORD.load(Ordering::Acquire);
        if word.is_null() {
            word = find();
        }
        if std::ptr::eq(word, &NONE) {
            // Linux before 4.14 and some emulators: ask for the process, at the price of a system
            // call.
            return u64::from(std::process::id()) | 1 << 63;
        }
        // SAFETY: not null, and what is put there is never unmapped.
        let word = unsafe { &*word };
        // With the store below: whoever sees a number sees that it was given out, and so does a
        // child that is forked then.
        match word.load(Ordering::Acquire) {
            // Copied with the fork, `NEXT` is past every number the parent had given out.
            0 => {
                let new = NEXT.fetch_add(1, Ordering::Relaxed);
                word.compare_exchange(0, new, Ordering::Release, Ordering::Acquire).map_or_else(|other| other, |_| new)
            }
            generation => generation,
        }
    }

    /// Looks for the word. Several threads may do that at once; one of them is the first.
    #[cold]
    fn find() -> *mut AtomicU64 {
        let page = wiped_page();
        let new = page.map_or((&raw const NONE).cast_mut(), |span| span.start.as_ptr().cast());
        match WORD.compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(other) => {
                if let Some(span) = page {
                    // SAFETY: mapped just now and given to nobody.
                    let _ = unsafe { unix::release(span) };
                }
                other
            }
        }
    }

    /// A page that begins with eight zero bytes, in each child anew.
    fn wiped_page() -> Option<Span> {
        let span = unix::map(unix::page_size()).ok()?;
        // SAFETY: mapped just now; zeros in children are what it is for.
        unsafe { wipe_on_fork(span) }.map(|()| span).ok().or_else(|| {
            // SAFETY: mapped just now and given to nobody.
            let _ = unsafe { unix::release(span) };
            None
        })
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

/// Elsewhere: a count of forks, which the C library keeps by calling us in each child. A child made
/// by a bare system call is not counted.
#[cfg(not(any(
    target_os = "linux",
    target_os = "android",
    target_os = "freebsd",
    target_os = "netbsd",
    target_os = "openbsd"
)))]
mod native {
    use super::{AtomicU64, Ordering};
    use crate::sync::AtomicUsize;

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
        const UNKNOWN: usize = 0;
        const YES: usize = 1;
        const NO: usize = 2;
        /// Whether forks are counted. No lock: a child could inherit it held. Counted twice, they
        /// count as well.
        static COUNTS: AtomicUsize = AtomicUsize::new(UNKNOWN);
        if COUNTS.load(Ordering::Relaxed) == UNKNOWN {
            // SAFETY: the function is part of this program and stays as long as it does.
            let counts = unsafe { pthread_atfork(None, None, Some(in_child)) } == 0;
            COUNTS.store(if counts { YES } else { NO }, Ordering::Relaxed);
        }
        if COUNTS.load(Ordering::Relaxed) == YES {
            GENERATION.load(Ordering::Relaxed)
        } else {
            // No memory for a handler: ask for the process, at the price of a system call.
            u64::from(std::process::id()) | 1 << 63
        }
    }
}
