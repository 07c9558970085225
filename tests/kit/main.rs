//! Tests of the kit for long-lived runtimes: code that is written at its address, pointers with a
//! lifetime, an arena in a static.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod attach;
mod calls;
mod data;
mod lazy;
mod link;
mod patch;
mod redirect;
