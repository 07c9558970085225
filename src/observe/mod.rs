//! Observers that report the functions of an arena to profilers and debuggers.
//!
//! Each type here implements [`Observer`](crate::Observer). Pass it to
//! [`ArenaBuilder::observer`](crate::ArenaBuilder::observer). One observer may serve several
//! arenas. Nothing else in the crate depends on these modules.
//!
//! | | feature | where | who reads it |
//! |---|---|---|---|
//! | `PerfMap` | `perf` | Unix | `perf report`, and most other profilers: names of functions |
//! | `Jitdump` | `perf` | Unix | `perf inject --jit`, samply: names and code, also of addresses that are used again |
//! | `Gdb` | `gdb` | systems with ELF | gdb, lldb: breakpoints by name, names and frames in a backtrace |
//! | `VTune` | `vtune` | Linux, Windows, macOS and FreeBSD on x86 and x86-64 | Intel's VTune Profiler: names of functions |
//! | `Events` | `tracing` | everywhere | subscribers of `tracing`: what the arena does |
//!
//! The feature `perf` was run on Linux only. For other systems it was compiled, and never run.
//!
//! # Names
//!
//! A function is reported by its [`Code::name`](crate::Code::name). Without a name it is `jit_` and
//! its tag in decimal, or, if the tag is 0, `jit_` and its address in hexadecimal. Control
//! characters and line separators in names are written as `_`.
//!
//! # From a publication to the reader
//!
//! ```text
//! publish -> Observer::published -> PerfMap, Jitdump -> Sink: a buffer for each group of threads
//!                                                        -> queue -> thread -> Output -> file
//!                                -> Gdb     -> an ELF object -> the debuggers' list
//!                                -> VTune   -> Intel's collector
//!                                -> Events  -> `tracing`
//! ```
//!
//! # Signal safety and fork
//!
//! No call here is safe in a signal handler. In a forked child, an inherited `PerfMap`, `Jitdump`
//! or `VTune` writes nothing, because the file or the collector belongs to the parent.

#[cfg(all(feature = "perf", unix))]
mod claim;
#[cfg(all(feature = "gdb", unix, not(target_vendor = "apple")))]
mod eh_frame;
#[cfg(all(feature = "gdb", unix, not(target_vendor = "apple")))]
mod elf;
#[cfg(feature = "tracing")]
mod events;
#[cfg(all(feature = "gdb", unix, not(target_vendor = "apple")))]
mod gdb;
#[cfg(all(feature = "gdb", unix, not(target_vendor = "apple")))]
mod gdb_list;
#[cfg(all(feature = "perf", unix))]
mod jitdump;
#[cfg(any(all(feature = "perf", unix), all(feature = "gdb", unix, not(target_vendor = "apple"))))]
mod machine;
#[cfg(any(
    all(feature = "perf", unix),
    all(feature = "gdb", unix, not(target_vendor = "apple")),
    all(
        feature = "vtune",
        any(target_os = "linux", target_os = "windows", target_os = "macos", target_os = "freebsd"),
        any(target_arch = "x86", target_arch = "x86_64")
    )
))]
mod name;
#[cfg(all(feature = "perf", unix))]
mod output;
#[cfg(all(feature = "perf", unix))]
mod perf_map;
#[cfg(all(feature = "perf", unix))]
mod sink;
#[cfg(all(
    feature = "vtune",
    any(target_os = "linux", target_os = "windows", target_os = "macos", target_os = "freebsd"),
    any(target_arch = "x86", target_arch = "x86_64")
))]
mod vtune;

#[cfg(feature = "tracing")]
pub use events::Events;
#[cfg(all(feature = "gdb", unix, not(target_vendor = "apple")))]
pub use gdb::Gdb;
#[cfg(all(feature = "perf", unix))]
pub use jitdump::Jitdump;
#[cfg(all(feature = "perf", unix))]
pub use perf_map::PerfMap;
#[cfg(all(
    feature = "vtune",
    any(target_os = "linux", target_os = "windows", target_os = "macos", target_os = "freebsd"),
    any(target_arch = "x86", target_arch = "x86_64")
))]
pub use vtune::VTune;
