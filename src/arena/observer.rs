//! Listening to an arena: what profilers, debuggers and unwinders need to know.

use super::lookup::BlockInfo;

/// Hears of every block as it is published and retired. Registered with
/// [`ArenaBuilder::observer`](crate::ArenaBuilder::observer).
///
/// The calls come on the thread that publishes or drops, without any lock held; calls of different threads overlap.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use gaia_jit::{BlockInfo, Code, CodeArena, Observer};
///
/// #[derive(Default)]
/// struct Names(Mutex<Vec<String>>);
///
/// impl Observer for Names {
///     fn published(&self, block: &BlockInfo, name: Option<&str>) {
///         self.0.lock().unwrap().push(format!("{} of {} bytes", name.unwrap_or("?"), block.len));
///     }
/// }
///
/// let names = Arc::new(Names::default());
/// let arena = CodeArena::builder().capacity(1 << 20).observer(names.clone()).build()?;
/// let block = arena.publish(Code::new(&[0xc3]).name("nothing"))?;
/// assert_eq!(*names.0.lock().unwrap(), ["nothing of 1 bytes"]);
/// # Ok::<(), gaia_jit::Error>(())
/// ```
pub trait Observer: Send + Sync {
    /// `block` can be run from now on; the publishing call has not returned yet.
    fn published(&self, block: &BlockInfo, name: Option<&str>) {
        let _ = (block, name);
    }

    /// `block` was dropped; its space is not used again before this returns.
    fn retired(&self, block: &BlockInfo) {
        let _ = block;
    }
}
