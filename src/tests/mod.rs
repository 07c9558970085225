//! Tests that need to see inside: refused and counted system calls.

mod faulty;
mod random;
mod refusals;

/// What is parked is the whole process's: held by tests in which releases fail.
static PARKING: crate::sync::Mutex<()> = crate::sync::Mutex::new(());
