//! Tests of one W^X mode each, of memory that is given, and of what hardens all of them.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod file_write;
#[cfg(target_os = "linux")]
mod given_memory;
#[cfg(target_os = "linux")]
mod hardening;
#[cfg(all(target_os = "linux", target_arch = "x86_64"))]
mod per_thread;
#[cfg(all(unix, target_arch = "x86_64"))]
mod poison;
#[cfg(windows)]
mod windows;
