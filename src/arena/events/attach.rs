//! Attaching observers late, and listing live blocks.

use std::fmt;

use crate::Error;
use crate::arena::CodeArena;
use crate::arena::core::Core;
use crate::arena::events::observer::{Observer, Published};
use crate::arena::lookup::{BlockInfo, Entry};
use crate::space::granules::SPAN;
use crate::sync::Arc;

/// The number of functions in one call of an observer.
const TOLD: usize = 256;

impl CodeArena {
    /// Adds an observer to an arena that is in use, for example a profiler or a debugger that is
    /// switched on later. It is called about the arena and about all live functions, with their
    /// names and unwind information. From then on it is called about every event, after the other
    /// observers.
    ///
    /// No function is missed. If other threads publish and drop meanwhile, an observer may be
    /// called about a function twice, about a drop before the function and then once more, and
    /// about the drop of a function that it was never called about. It stays as long as the arena.
    ///
    /// A thread must not [patch](crate::CodeBlock::patch) code meanwhile. The unwinder of the
    /// feature [`unwind`](crate::guide) cannot be attached late.
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
    /// - [`Error::Unsupported`] if the arena was not built with
    ///   [`keep_notes`](crate::ArenaBuilder::keep_notes).
    /// - [`Error::Forked`] in a forked child.
    ///
    /// # Panics
    /// If the observer panics.
    pub fn attach(&self, observer: Arc<dyn Observer>) -> Result<(), Error> {
        let core = self.core();
        core.memory.check_own("attach an observer")?;
        let Some(kept) = &core.kept else {
            return Err(Error::unsupported(
                "attaching an observer",
                "the arena keeps no notes: build it with `keep_notes(true)`",
            ));
        };
        observer.reserved(&core.reservation());
        core.observers.attach(Arc::clone(&observer));
        // From here on the observer is called about everything. A function that is noted now was
        // not dropped before the guard was taken, so its bytes stay. A thread that publishes or
        // drops after this reads the notes sees the observer, because both lock the notes.
        let _guard = self.pin();
        for notes in kept.all().chunks(TOLD) {
            // SAFETY: the functions are published, and under the guard their space is not used
            // again.
            let published = notes.iter().map(|note| unsafe { core.published(note.describe()) });
            let published: Vec<Published<'_>> = published.collect();
            observer.published(&published);
            // The observer may have been called about a drop before it was called about the
            // function.
            for note in notes.iter().filter(|note| !kept.has(note)) {
                observer.retired(&core.info(note.entry()));
            }
        }
        Ok(())
    }

    /// Returns the live blocks, in the order of their addresses.
    ///
    /// It takes no lock. A block that is published or dropped meanwhile may be listed or not. Each
    /// block is as [`lookup`](Self::lookup) would find it. A guard keeps the space of found blocks
    /// from being used again. Without a guard one start may be listed twice, if the block there is
    /// dropped and another is placed there meanwhile.
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
    /// The span that is searched next, and the blocks that were found in the span before it.
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
