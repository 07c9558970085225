//! The names of the modes, and what each promises.
#![forbid(unsafe_code)]

/// How an arena keeps pages from being writable and executable at once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum WxMode {
    /// Private memory, one address. A page is opened for writing only while it is empty; holes in
    /// executable pages are filled through the kernel where the system allows it, and otherwise
    /// wait until their page is empty.
    #[default]
    Flip,
    /// Shared memory mapped twice: executable at one address, writable at another that only the
    /// arena knows. No system calls to publish; the writable view exists as long as the arena does.
    ///
    /// A forked child shares the memory: it cannot write to it, but it sees what the parent writes.
    /// So it may run a block that it inherited only as long as the parent does not drop it; guards
    /// of a child are unknown to its parent.
    ///
    /// On Windows memory is committed 64 KiB at a time as code comes to lie in it, and stays
    /// committed as long as the arena lives.
    DualMap,
    /// Private memory, one address, writable for the writing thread alone and only while it copies
    /// code in: by the protection keys of x86-64 on Linux, one for each arena (a process has 15).
    /// No system calls to publish, no second address, and no thread's rights change while code of
    /// the caller's runs, in a batch neither.
    ///
    /// # Who can read
    ///
    /// Every thread can run the code. To *read* it, a thread needs the right to, as for code that
    /// keeps constants among its instructions. On x86-64 these have it:
    /// - the thread that built the arena, from then on;
    /// - a thread that called [`CodeArena::pin`][pin], [`CodeBlock::as_fn`][as_fn] or
    ///   [`CodeBlock::as_bytes`][as_bytes], or published something, from then on;
    /// - a thread that was spawned by one that had it, however old either is.
    ///
    /// These do not:
    /// - a thread that was there before the arena, and every thread that it spawns, also after the
    ///   arena was built: the workers of a thread pool, as a rule;
    /// - a signal handler, as each begins without rights. A handler may call [`pin`][pin];
    /// - a thread that left a signal handler by a jump (`siglongjmp`), because only the return from
    ///   a handler restores rights.
    ///
    /// Without the right, reading is `SIGSEGV`. It is not only generated code that reads: an
    /// unwinder that finds no unwind information looks at the instructions (libgcc does, for a
    /// panic, an exception or a backtrace), and so does a crash handler that prints them. So take a
    /// guard before you call code, on each thread, and again after a jump out of a handler: for a
    /// thread that has the right this costs no more than the guard.
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
    /// # What others see
    ///
    /// The system lists the pages as writable and executable (`rwxp` in `/proc/self/maps`), because
    /// the list does not know of keys. A scan for such mappings reports them.
    ///
    /// A thread that other code once gave rights to the very key that this arena was given later
    /// keeps them until it makes one of the calls above: build the arena before other code of the
    /// process uses keys. Writes through the kernel (`process_vm_writev`, `/proc/self/mem`) ask for
    /// no key.
    ///
    /// [pin]: crate::CodeArena::pin
    /// [as_fn]: crate::CodeBlock::as_fn
    /// [as_bytes]: crate::CodeBlock::as_bytes
    PerThread,
    /// Shared memory mapped once, for executing: an anonymous file, to which the arena writes
    /// through its descriptor (`pwrite`). Linux and Android. No writable view of code exists at any
    /// address at any time, no protection ever changes, and nothing depends on `/proc/self/mem`,
    /// which hardened kernels refuse.
    ///
    /// The descriptor is the right to write: an attacker who makes system calls reaches it through
    /// `/proc/self/fd`, and a forked child inherits it. (It is closed by `execve`, and has a high
    /// number.) A forked child shares the memory, as in `DualMap`. If other code of the process
    /// closes the descriptor, nothing is published any more; what was published stays as it is.
    /// What that code opens under the same number may be written to before the arena notices, so do
    /// not close descriptors that are not yours.
    ///
    /// Before each write the arena looks at `RLIMIT_FSIZE`, because a write past that limit is a
    /// signal that ends the process. A process that ignores the signal (`SIGXFSZ`) when the arena
    /// is built saves that call, a quarter of the time of a publication; it has to go on ignoring
    /// it.
    FileWrite,
    /// Memory that somebody else mapped, over which
    /// [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over) makes an arena; no other call
    /// does. Bytes get in by stores to a writable alias, or by a function of the embedder's. No
    /// call to the system ever names the memory: it is not mapped, protected, advised or unmapped.
    ///
    /// [`CodeArena::trim`](crate::CodeArena::trim) fills empty pages with traps and returns 0,
    /// because the memory stays. Resident bytes are, as always, those of pages that code was placed
    /// in since they were last trimmed. [`CodeArena::collapse`][collapse] is refused, and
    /// [`ArenaBuilder::keep_free`](crate::ArenaBuilder::keep_free) has no effect.
    ///
    /// A forked child may share the memory with its parent, if that is how it was mapped: what
    /// `DualMap` says of children is true here.
    ///
    /// [collapse]: crate::CodeArena::collapse
    Given,
    /// For a test.
    #[cfg(all(test, not(loom)))]
    #[doc(hidden)]
    Toy,
}

/// Why holes in pages with live code are not filled in `Flip`: what stands in the way of the kernel
/// write.
///
/// A function that is published by itself then takes pages of its own, and a hole waits until its
/// page is empty. Publish in batches, or take another mode
/// ([`ArenaBuilder::modes`](crate::ArenaBuilder::modes)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[non_exhaustive]
pub enum Unfilled {
    /// This system has no such call.
    NoSuchCall,
    /// `/proc/self/mem` could not be opened: `/proc` is not there, or a policy forbids it.
    NotOpened,
    /// A write to an executable page is refused: by a filter of system calls, or by the kernel
    /// (`proc_mem.force_override`).
    NotWritten,
    /// What was written is not what runs: under an emulator the file may be the emulator's own
    /// memory.
    OtherMemory,
}
