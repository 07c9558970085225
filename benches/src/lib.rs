//! The benchmarks of `gaia-jit`: traces, peers, measurement, rows and loads.
//!
//! `scoreboard` (the binary) runs every row of the design's table in one go and prints it with its
//! target; the criterion benchmarks in `benches/` use the same traces and peers.
//!
//! # How it measures
//!
//! Peers take turns, round by round, within one process, and a figure is the best round of each: on
//! a noisy machine what disturbs one disturbs its neighbour too, and the least disturbed rounds are
//! comparable. Ratios are of best rounds. Every case runs in a child process, so that a peer's
//! crash is a line in the table, and so that memory figures begin with a clean heap.

pub mod code;
#[allow(dead_code, reason = "tests use more of it")]
#[path = "../../tests/common/sandbox.rs"]
mod filter;
pub mod group;
pub mod loads;
pub mod machine;
pub mod measure;
pub mod peers;
pub mod proc;
pub mod report;
pub mod rows;
pub mod sample;
pub mod sandbox;
pub mod scale;
pub mod trace;
