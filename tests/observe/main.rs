//! Tests of the observers for other tools: perf, gdb and VTune.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(all(feature = "gdb", any(target_os = "linux", target_os = "freebsd"), not(loom)))]
mod gdb;
#[cfg(all(feature = "perf", target_os = "linux", not(loom)))]
mod perf;
#[cfg(all(feature = "perf", target_os = "linux", not(loom)))]
mod perf_report;
#[cfg(all(feature = "vtune", target_os = "linux", any(target_arch = "x86", target_arch = "x86_64"), not(loom)))]
mod vtune;
