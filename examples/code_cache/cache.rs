//! The code cache of the example: programs by number, in a [`CodeCache`].
//!
//! A program is one entry of several functions. A hit needs no reference count, and no lock that
//! other threads wait for. It runs under a guard, which keeps its code in place until the call has
//! ended. A missing program is placed, linked and published. The batch that does this makes room by
//! itself: it evicts programs that were not called lately.

use std::cell::Cell;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use gaia_jit::cache::{CodeCache, Entry};
use gaia_jit::{Batch, Code, CodeArena, CodeBlock, Error, Guard, Slot, Target};

use crate::common::failure::Failure;
use crate::counters::Counters;
use crate::native::{self, Object};
use crate::workload::Unit;

/// The number of attempts to publish a program while others hold the space that it needs, and the
/// time between them.
const MAX_TRIES: usize = 100_000;
const PAUSE: Duration = Duration::from_micros(100);

pub(crate) struct Cache<'a> {
    code: CodeCache<usize>,
    units: &'a [Unit],
    counters: &'a Counters,
}

impl<'a> Cache<'a> {
    pub(crate) fn new(arena: &CodeArena, units: &'a [Unit], counters: &'a Arc<Counters>) -> Self {
        let evicted = Arc::clone(counters);
        let hook = move |entry: &Entry<usize>, _| evicted.evicted_functions.add(entry.blocks().len());
        // Some space is left for programs that are not evicted.
        let budget = arena.capacity() / 8 * 7;
        Self { code: CodeCache::builder(arena.clone()).budget(budget).on_evict(hook).build(), units, counters }
    }

    pub(crate) fn code(&self) -> &CodeCache<usize> {
        &self.code
    }

    pub(crate) fn pin(&self) -> Guard<'_> {
        self.code.arena().pin()
    }

    /// Returns a program that is in the cache, to be run under the guard.
    pub(crate) fn find<'g>(&'g self, guard: &'g Guard<'_>, unit: usize) -> Option<native::Entry> {
        let entry = self.code.get_in(guard, &unit)?;
        // SAFETY: every entry begins with the trampoline, which was compiled with this signature.
        // It is called under the guard.
        Some(unsafe { entry.as_fn() })
    }

    /// Publishes a program that was missing. `compile` makes its code, and runs before.
    pub(crate) fn load(
        &self,
        unit: usize,
        mut compile: impl FnMut() -> Result<(), Failure>,
    ) -> Result<Arc<Entry<usize>>, Failure> {
        for _ in 0..MAX_TRIES {
            let (start, inside) = (Instant::now(), Cell::new(Duration::ZERO));
            let made = self.code.get_or_compile(&unit, |batch| {
                let begun = Instant::now();
                compile()?;
                let slot = self.publish(batch, unit);
                inside.set(begun.elapsed());
                slot
            });
            match made {
                Ok(entry) if inside.get().is_zero() => return Ok(entry),
                Ok(entry) => {
                    self.counters.publish_time.add_time(start.elapsed().saturating_sub(inside.get()));
                    self.counters.programs.add(1);
                    self.counters.functions.add(entry.blocks().len());
                    self.counters.bytes.add(entry.len());
                    self.check_lookup(unit, entry.blocks());
                    return Ok(entry);
                }
                // Evicted code waits for the guard of a thread that does not run now, or all code
                // is in use.
                Err(Failure::Arena(Error::ArenaFull { .. })) => {
                    self.counters.full.add(1);
                    thread::sleep(PAUSE);
                }
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::Run("the arena stays full with everything evicted".to_owned()))
    }

    /// Places and links a program. Returns the slot at which it is entered.
    fn publish(&self, batch: &mut Batch, unit: usize) -> Result<Slot, Failure> {
        let start = Instant::now();
        let slots = place(batch, &self.units[unit].object, unit)?;
        let placed = Instant::now();
        link(batch, &self.units[unit].object, &slots)?;
        self.counters.push_time.add_time(placed - start);
        self.counters.link_time.add_time(placed.elapsed());
        slots.last().copied().ok_or_else(|| Failure::Run("a program without functions".to_owned()))
    }

    /// Checks that every address inside a block leads back to its tag.
    fn check_lookup(&self, unit: usize, pieces: &[CodeBlock]) {
        for (number, block) in pieces.iter().enumerate() {
            let inside = block.as_ptr().wrapping_add(block.len() - 1);
            let found = self.code.arena().lookup(inside).map(|info| (info.start, info.tag));
            if found != Some((block.as_ptr(), tag(unit, number))) {
                let name = &self.units[unit].object.pieces[number].name;
                self.counters.mismatch(|| format!("{name}: lookup of its last byte gives {found:?}"));
            }
        }
    }
}

/// Reserves slots for all functions of a program, the trampoline last.
pub(crate) fn place(batch: &mut Batch, object: &Object, unit: usize) -> Result<Vec<Slot>, Error> {
    let place = |(number, piece): (usize, &native::Piece)| {
        batch.push(Code::new(&piece.bytes).align(piece.align).tag(tag(unit, number)).name(&piece.name))
    };
    object.pieces.iter().enumerate().map(place).collect()
}

/// Links calls between functions that have their addresses.
pub(crate) fn link(batch: &mut Batch, object: &Object, slots: &[Slot]) -> Result<(), Error> {
    for (piece, slot) in object.pieces.iter().zip(slots) {
        for open in &piece.relocations {
            batch.link(*slot, open.offset, open.kind, Target::Slot(slots[open.target]), open.addend)?;
        }
    }
    Ok(())
}

/// Returns the tag of a block: its program and its piece.
fn tag(unit: usize, piece: usize) -> u64 {
    (unit as u64) << 16 | piece as u64
}
