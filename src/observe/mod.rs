//! Listeners that tell profilers and debuggers of an arena's functions; nothing in the crate
//! depends on them.
//!
//! Each implements [`Observer`](crate::Observer) and is given to
//! [`ArenaBuilder::observer`](crate::ArenaBuilder::observer); one may listen to several arenas.
//!
//! | | feature | where | who reads it |
//! |---|---|---|---|
//! | `PerfMap` | `perf` | Unix | `perf report`, and most other profilers: names of functions |
//! | `Jitdump` | `perf` | Unix | `perf inject --jit`, samply: names and code, also of addresses that are used again |
//! | `Gdb` | `gdb` | systems with ELF | gdb, lldb: breakpoints by name, names and frames in a backtrace |
//! | `VTune` | `vtune` | Linux, Windows, macOS and FreeBSD on x86 and x86-64 | Intel's VTune Profiler: names of functions |
//! | `Events` | `tracing` | everywhere | subscribers of `tracing`: what the arena does |
//!
//! The feature `perf` was run on Linux alone; for other systems the compiler has checked it.
//!
//! Functions are known by [`Code::name`](crate::Code::name) or, without one, as `jit_` with their
//! tag in decimal or (if that is 0) their address in hexadecimal. Control characters and line
//! separators in names are written as `_`.

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
