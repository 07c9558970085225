//! The names of the modes, with the promises and limits of each.
//!
//! - [`WxMode`] is the public list of modes. An embedder chooses by its documentation: who can read
//!   and write code, what a forked child may do, and what others see of the memory.
//! - [`Unfilled`] is the reason why `Flip` leaves holes in pages with live code unused.
//!
//! This file has no behaviour. The file of a mode in this folder has it, and must do what is
//! promised here. `Toy` exists in tests only.
#![forbid(unsafe_code)]

/// A mode: the way in which an arena keeps pages from being writable and executable at once. [The
/// modes](crate::wx_modes) compares them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum WxMode {
    /// Private memory at one address. A page is opened for writing only while it is empty. Holes in
    /// executable pages are filled through the kernel if the system allows that. Otherwise they are
    /// not used before their page is empty.
    #[default]
    Flip,
    /// Shared memory that is mapped twice: executable at one address, writable at another address
    /// that only the arena knows. Publishing takes no system call. The writable view exists as long
    /// as the arena does.
    ///
    /// A forked child shares the memory. It cannot write to it, but it sees what the parent writes.
    /// So it may run an inherited block only as long as the parent does not drop the block. The
    /// parent does not know the guards of a child.
    ///
    /// On Windows memory is committed 64 KiB at a time when code is placed in it, and stays
    /// committed as long as the arena lives.
    DualMap,
    /// Private memory at one address. It is writable for the writing thread only, and only while
    /// that thread copies code. Protection keys of x86-64 on Linux do this, one for each arena (a
    /// process has 15). On Apple Silicon `MAP_JIT` does. Publishing takes no system call, and there
    /// is no second address. While code of the caller runs, no thread has more rights, not even in
    /// a batch.
    ///
    /// # Which threads can read
    ///
    /// Every thread can run the code. To *read* it, a thread needs a right. Code that keeps
    /// constants among its instructions reads itself. On x86-64 these threads have the right:
    /// - the thread that built the arena, from then on;
    /// - a thread that called [`CodeArena::pin`][pin], [`CodeBlock::as_fn`][as_fn] or
    ///   [`CodeBlock::as_bytes`][as_bytes], or published something, from then on;
    /// - a thread that was spawned by a thread that had the right, however old either of them is.
    ///
    /// These do not have it:
    /// - a thread that is older than the arena, and every thread that it spawns, also after the
    ///   arena was built. The workers of a thread pool are usually such threads;
    /// - a signal handler, because each begins without rights. A handler may call [`pin`][pin];
    /// - a thread that left a signal handler by a jump (`siglongjmp`), because only the return from
    ///   a handler restores rights.
    ///
    /// Reading without the right is `SIGSEGV`. Generated code is not the only reader. An unwinder
    /// that finds no unwind information reads the instructions (libgcc does, for a panic, an
    /// exception or a backtrace), and so does a crash handler that prints them. So take a guard on
    /// each thread before you call code, and again after a jump out of a handler. For a thread that
    /// has the right, this costs no more than the guard.
    ///
    /// ```
    /// use gaia_jit::{CodeArena, WxMode};
    ///
    /// // A pool that is older than the arena.
    /// let (jobs, queue) = std::sync::mpsc::channel::<Box<dyn FnOnce() + Send>>();
    /// let worker = std::thread::spawn(move || queue.into_iter().for_each(|job| job()));
    ///
    /// let arena = CodeArena::builder().capacity(1 << 20).modes(&[WxMode::PerThread, WxMode::Flip]).build()?;
    /// let shared = arena.clone();
    /// jobs.send(Box::new(move || {
    ///     let _guard = shared.pin(); // from here on this worker can read the code
    ///     // ... calls functions of the arena ...
    /// })).unwrap();
    /// drop(jobs);
    /// worker.join().unwrap();
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Effects outside of the arena
    ///
    /// The system lists the pages as writable and executable (`rwxp` in `/proc/self/maps`), because
    /// the list does not show keys. A scan for such mappings reports them.
    ///
    /// Other code may have used the same key before, and may have left rights in a thread. That
    /// thread keeps them until it makes one of the calls above. So build the arena before other
    /// code of the process uses keys. Writes through the kernel (`process_vm_writev`,
    /// `/proc/self/mem`) do not check keys.
    ///
    /// [pin]: crate::CodeArena::pin
    /// [as_fn]: crate::CodeBlock::as_fn
    /// [as_bytes]: crate::CodeBlock::as_bytes
    PerThread,
    /// Shared memory that is mapped once, executable: an anonymous file, to which the arena writes
    /// through its descriptor (`pwrite`). It exists on Linux and Android. At no time is there a
    /// writable view of code at any address. No protection ever changes, unless the arena is built
    /// with [`poison`](crate::ArenaBuilder::poison). The mode does not depend on `/proc/self/mem`,
    /// which hardened kernels refuse.
    ///
    /// The descriptor is the right to write. An attacker who makes system calls reaches it through
    /// `/proc/self/fd`, and a forked child inherits it. (`execve` closes it, and its number is
    /// high.) A forked child shares the memory, as in `DualMap`. If other code of the process
    /// closes the descriptor, nothing can be published any more, and published code stays as it is.
    /// If that code then opens something under the same number, the arena may write to it before it
    /// notices. So do not close descriptors that you did not open.
    ///
    /// Before each write the arena reads `RLIMIT_FSIZE`, because a write past that limit raises a
    /// signal that ends the process. If the process ignores the signal (`SIGXFSZ`) when the arena
    /// is built, the arena saves that call, which is a sixth of the time of a publication. The
    /// process then has to ignore the signal as long as the arena lives.
    ///
    /// Fresh memory comes several pages at once, up to 64 KiB, because a page alone costs more.
    /// That is done only while less than a sixteenth of the memory of a thread's functions is free.
    /// [`CodeArena::trim`](crate::CodeArena::trim) gives it back.
    FileWrite,
    /// Memory that somebody else mapped. Only
    /// [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over) makes an arena over it. Bytes
    /// are written by stores to a writable alias, or by a function of the embedder. No system call
    /// names the memory: it is not mapped, protected, advised or unmapped.
    ///
    /// [`CodeArena::trim`](crate::CodeArena::trim) fills empty pages with traps and returns 0,
    /// because the memory stays. As in other modes, resident bytes are those of pages in which code
    /// was placed since they were last trimmed. [`CodeArena::collapse`][collapse] is refused, and
    /// [`ArenaBuilder::keep_free`](crate::ArenaBuilder::keep_free) has no effect.
    ///
    /// A forked child may share the memory with its parent, depending on how it was mapped. Then
    /// the same holds for the child as in `DualMap`.
    ///
    /// [collapse]: crate::CodeArena::collapse
    Given,
    /// A mode for a test.
    #[cfg(all(test, not(loom)))]
    #[doc(hidden)]
    Toy,
}

/// The reason why `Flip` does not fill holes in pages with live code: why it cannot use the kernel
/// write.
///
/// A function that is published by itself then takes pages of its own, and a hole is not used
/// before its page is empty. Publish in batches, or use another mode
/// ([`ArenaBuilder::modes`](crate::ArenaBuilder::modes)).
///
/// ```
/// let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// match arena.stats().unfilled {
///     None => println!("functions fill holes between others"),
///     Some(why) => println!("publish in batches: {why:?}"),
/// }
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Unfilled {
    /// This system has no such call.
    NoSuchCall,
    /// `/proc/self/mem` could not be opened, because `/proc` is not mounted or a policy forbids it.
    NotOpened,
    /// A write to an executable page is refused, by a filter of system calls or by the kernel
    /// (`proc_mem.force_override`).
    NotWritten,
    /// The written bytes are not the bytes that run. Under an emulator the file may be the
    /// emulator's own memory.
    OtherMemory,
}
