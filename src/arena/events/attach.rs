//! Observers that come late, and lists of what is live.

use std::fmt;

use crate::Error;
use crate::arena::CodeArena;
use crate::arena::core::Core;
use crate::arena::events::observer::{Observer, Published};
use crate::arena::lookup::{BlockInfo, Entry};
use crate::space::granules::SPAN;
use crate::sync::Arc;

/// How many functions are told of at once.
const TOLD: usize = 256;

impl CodeArena {
    /// Adds an observer to an arena that is in use, for profilers and debuggers that come late. It
    /// is told of the arena and of all functions that are live, with their names and unwind
    /// information, and from then on of what happens, behind the other observers.
    ///
    /// No function is missed. While others publish and drop, an observer may hear of a function
    /// twice, of a drop before the function and then once more, and of the drop of a function that
    /// it never heard of. It stays for as long as the arena. If it panics here, the panic goes on
    /// to the caller.
    ///
    /// A thread must not [patch](crate::CodeBlock::patch) code meanwhile. The
    /// [`unwind`](crate::guide) feature's unwinder cannot come late.
    ///
    /// ```
    /// use std::sync::{Arc, Mutex};
    /// use gaia_jit::{Code, CodeArena, Observer, Published};
    ///
    /// #[derive(Default)]
    /// struct Names(Mutex<Vec<String>>);
    ///
    /// impl Observer for Names {
    ///     fn published(&self, functions: &[Published<'_>]) {
    ///         self.0.lock().unwrap().extend(functions.iter().map(|f| f.name.unwrap_or("?").to_string()));
    ///     }
    /// }
    ///
    /// let arena = CodeArena::builder().capacity(1 << 20).keep_notes(true).build()?;
    /// let early = arena.publish(Code::new(&[0xc3]).name("early"))?;
    /// let names = Arc::new(Names::default());
    /// arena.attach(names.clone())?;
    /// let late = arena.publish(Code::new(&[0xc3]).name("late"))?;
    /// assert_eq!(*names.0.lock().unwrap(), ["early", "late"]);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Unsupported`] unless the arena was built with
    ///   [`keep_notes`](crate::ArenaBuilder::keep_notes).
    /// - [`Error::Forked`] in a child.
    pub fn attach(&self, observer: Arc<dyn Observer>) -> Result<(), Error> {
        let core = self.core();
        core.memory.check_own("attach an observer")?;
        let Some(kept) = &core.kept else {
            return Err(Error::unsupported("attaching an observer", "the arena was built without `keep_notes`"));
        };
        observer.reserved(&core.reservation());
        core.observers.attach(Arc::clone(&observer));
        // From here on it hears of everything. What is noted now was not dropped before the guard,
        // so its bytes stay; and whoever publishes or drops after this look at the notes sees the
        // observer, because both lock them.
        let _guard = self.pin();
        for notes in kept.all().chunks(TOLD) {
            // SAFETY: published, and not used again under the guard.
            let published = notes.iter().map(|note| unsafe { core.published(note.describe()) });
            let published: Vec<Published<'_>> = published.collect();
            observer.published(&published);
            // It may have heard of a drop before it heard of the function.
            for note in notes.iter().filter(|note| !kept.has(note)) {
                observer.retired(&core.info(note.entry()));
            }
        }
        Ok(())
    }

    /// Returns the blocks that are live, in the order of their addresses.
    ///
    /// No lock is taken. What is published or dropped meanwhile may be among them or not, and each
    /// is as [`lookup`](Self::lookup) would find it; a guard keeps what was found from being used
    /// again. Without a guard one start may come twice, if the block there is dropped and another
    /// is placed there meanwhile.
    ///
    /// ```
    /// # use gaia_jit::{Code, CodeArena};
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let blocks = [arena.publish(Code::new(&[0xc3]).tag(1))?, arena.publish(Code::new(&[0xc3]).tag(2))?];
    /// let mut tags: Vec<u64> = arena.blocks().map(|block| block.tag).collect();
    /// tags.sort();
    /// assert_eq!(tags, [1, 2]);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn blocks(&self) -> Blocks<'_> {
        Blocks { core: self.core(), span: 0, found: Vec::new().into_iter() }
    }
}

/// The live blocks of an arena. Made by [`CodeArena::blocks`].
pub struct Blocks<'a> {
    core: &'a Core,
    /// The span that is looked through next, and what was found in the one before.
    span: u32,
    found: std::vec::IntoIter<Entry>,
}

impl Iterator for Blocks<'_> {
    type Item = BlockInfo;

    fn next(&mut self) -> Option<BlockInfo> {
        loop {
            if let Some(entry) = self.found.next() {
                return Some(self.core.info(entry));
            }
            if self.span as usize >= self.core.memory.len().div_ceil(SPAN as usize * crate::units::GRANULE) {
                return None;
            }
            self.found = self.core.lookup.of_span(self.span).into_iter();
            self.span += 1;
        }
    }
}

impl fmt::Debug for Blocks<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Blocks")
    }
}
