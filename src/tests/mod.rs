//! Tests that need to see inside: refused and counted system calls.

mod faulty;
mod refusals;
