//! Work on several threads.

use std::thread;

use super::failure::Failure;

/// Runs `work` on a number of threads, each with a stack of its own size. Returns the first
/// failure.
pub(crate) fn on_threads<T: Send>(
    threads: usize,
    stack_bytes: usize,
    work: impl Fn(usize) -> Result<T, Failure> + Sync,
) -> Result<Vec<T>, Failure> {
    let work = &work;
    thread::scope(|scope| {
        let spawn = |number| thread::Builder::new().stack_size(stack_bytes).spawn_scoped(scope, move || work(number));
        let started: Vec<_> = (0..threads).map(spawn).collect();
        let join = |handle: std::io::Result<thread::ScopedJoinHandle<'_, _>>| {
            let handle = handle.map_err(|error| Failure::Run(format!("cannot start a thread: {error}")))?;
            handle.join().unwrap_or_else(|_| Err(Failure::Run("a thread panicked".to_owned())))
        };
        started.into_iter().map(join).collect()
    })
}
