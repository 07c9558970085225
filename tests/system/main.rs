//! Tests of an arena among others in its process and its system: forks, signals, dumps, limits,
//! refusals that come late. Most of them run in a child process.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

#[cfg(target_os = "linux")]
mod dumps;
#[cfg(target_os = "linux")]
mod fork;
#[cfg(target_os = "linux")]
mod late;
#[cfg(target_os = "linux")]
mod limits;
#[cfg(all(target_os = "linux", target_arch = "x86_64", target_env = "gnu"))]
mod needs;
#[cfg(target_os = "linux")]
mod signals;
