//! Tests of the arena in every mode: what is published, found, packed, reclaimed and observed.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod jit_memory;
mod lookup;
mod memory;
mod near;
#[cfg(target_os = "linux")]
mod near_linux;
mod observer;
mod packing;
mod promises;
mod publish;
mod reclamation;
