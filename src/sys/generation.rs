//! A number that differs between a process and its forked children. It is read at every
//! publication, so it has to cost no more than a load.
//!
//! ```text
//! a word on a page that the kernel wipes in children:   parent: 7     child: 0, then 8
//! systems without such pages:                           a count of forks (pthread_atfork)
//! neither:                                              the process id, a system call
//! ```
//!
//! An arena notes the number when it is built. If it differs later, this process is a child, and
//! the call is refused. No lock is taken, because a lock may be held for good in a child.

use crate::sync::{AtomicU64, Ordering};

pub(crate) use native::generation;

/// For systems on which the kernel can wipe a page in a child: one word on such a page.
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

    /// The word, or [`NONE`] if there is none. It is null until it was looked for. There is no
    /// lock, because a child could inherit it in the locked state.
    static WORD: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
    static NONE: AtomicU64 = AtomicU64::new(0);

    pub(crate) fn generation() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        // Acquire, because the word was made before the pointer was stored.
        let mut word = WORD.load(Ordering::Acquire);
        if word.is_null() {
            word = find();
        }
        if std::ptr::eq(word, &NONE) {
            // Linux before 4.14 and some emulators. The process id takes a system call.
            return u64::from(std::process::id()) | 1 << 63;
        }
        // SAFETY: not null. A word that was stored there is never unmapped.
        let word = unsafe { &*word };
        // Together with the store below: a thread that sees a number sees that it was given out,
        // and so does a child that is forked then.
        match word.load(Ordering::Acquire) {
            // `NEXT` was copied by the fork, so it is past every number that the parent gave out.
            0 => {
                let new = NEXT.fetch_add(1, Ordering::Relaxed);
                word.compare_exchange(0, new, Ordering::Release, Ordering::Acquire).map_or_else(|other| other, |_| new)
            }
            generation => generation,
        }
    }

    /// Looks for the word. Several threads may do that at the same time. One of them is the first.
    #[cold]
    fn find() -> *mut AtomicU64 {
        let page = wiped_page();
        let new = page.map_or((&raw const NONE).cast_mut(), |span| span.start.as_ptr().cast());
        match WORD.compare_exchange(std::ptr::null_mut(), new, Ordering::AcqRel, Ordering::Acquire) {
            Ok(_) => new,
            Err(other) => {
                if let Some(span) = page {
                    // SAFETY: mapped just now, and nobody else has it.
                    let _ = unsafe { unix::release(span) };
                }
                other
            }
        }
    }

    /// Maps a page that begins with eight zero bytes, anew in each child.
    fn wiped_page() -> Option<Span> {
        let span = unix::map(unix::page_size()).ok()?;
        // SAFETY: mapped just now. Children are meant to see zeros.
        unsafe { wipe_on_fork(span) }.map(|()| span).ok().or_else(|| {
            // SAFETY: mapped just now, and nobody else has it.
            let _ = unsafe { unix::release(span) };
            None
        })
    }

    /// Makes the kernel wipe pages in children.
    ///
    /// # Safety
    /// - `span` is whole pages of a private mapping that the caller owns. No child needs their
    ///   content.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    unsafe fn wipe_on_fork(span: Span) -> Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { unix::advise(span, libc::MADV_WIPEONFORK) }
    }

    /// Makes the kernel wipe pages in children.
    ///
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

/// For other systems: a count of forks. The C library calls this function in each child. A child
/// made by a bare system call is not counted.
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

    /// Counts a fork. It is safe in a child of a process with threads, because it is one atomic
    /// addition.
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
        /// Whether forks are counted. There is no lock, because a child could inherit it in the
        /// locked state. Counting each fork twice does no harm.
        static COUNTS: AtomicUsize = AtomicUsize::new(UNKNOWN);
        if COUNTS.load(Ordering::Relaxed) == UNKNOWN {
            // SAFETY: the function is part of this program, and stays as long as the program.
            let counts = unsafe { pthread_atfork(None, None, Some(in_child)) } == 0;
            COUNTS.store(if counts { YES } else { NO }, Ordering::Relaxed);
        }
        if COUNTS.load(Ordering::Relaxed) == YES {
            GENERATION.load(Ordering::Relaxed)
        } else {
            // There is no memory for a handler. The process id takes a system call.
            u64::from(std::process::id()) | 1 << 63
        }
    }
}
