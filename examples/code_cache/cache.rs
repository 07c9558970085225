//! The code cache of the example: which programs are in the arena, and which have to go when it is full.
//!
//! # Finding code
//!
//! There is one table with an atomic code address for each program. Callers pin the arena, load the address and call it;
//! no lock and no reference count is touched on the way. An evictor clears the address first and drops the blocks then:
//! whoever has loaded the address before is protected by its guard, whoever comes later finds the table empty.
//!
//! # Making room
//!
//! Eviction is the clock algorithm, the usual stand-in for least recently used: a call marks its program, the hand goes
//! round, takes the marks away and evicts what has none. So the call path writes one byte, and only if it has to.
//! Eviction frees a sixteenth of the arena at a time, so that few publications have to wait for it.

use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use gaia_jit::{Batch, Code, CodeArena, CodeBlock, Error, Guard, Slot, Target};

use crate::failure::Failure;
use crate::language::machine::Machine;
use crate::native::Entry;
use crate::tally::Tally;
use crate::workload::{Case, Unit};

/// How often a load is tried while others hold what it needs, and how long it waits between.
const MAX_TRIES: usize = 100_000;
const PAUSE: Duration = Duration::from_micros(100);

pub(crate) struct Cache<'a> {
    arena: &'a CodeArena,
    units: &'a [Unit],
    tally: &'a Tally,
    /// By program.
    table: Vec<Line>,
    owners: Mutex<Owners>,
}

/// What a caller needs to know of a program.
struct Line {
    /// The trampoline, or null while the program is not in the cache.
    entry: AtomicPtr<()>,
    /// Whether the program was called since the hand of the clock passed.
    used: AtomicBool,
}

/// What only publication and eviction look at.
struct Owners {
    /// By program, in the order of its pieces; empty while the program is not in the cache.
    blocks: Vec<Vec<CodeBlock>>,
    /// The hand of the clock.
    hand: usize,
}

impl<'a> Cache<'a> {
    pub(crate) fn new(arena: &'a CodeArena, units: &'a [Unit], tally: &'a Tally) -> Self {
        let line = |_| Line { entry: AtomicPtr::new(ptr::null_mut()), used: AtomicBool::new(false) };
        let owners = Owners { blocks: units.iter().map(|_| Vec::new()).collect(), hand: 0 };
        Self { arena, units, tally, table: units.iter().map(line).collect(), owners: Mutex::new(owners) }
    }

    pub(crate) fn pin(&self) -> Guard<'_> {
        self.arena.pin()
    }

    pub(crate) fn holds(&self, unit: usize) -> bool {
        !self.table[unit].entry.load(Ordering::Relaxed).is_null()
    }

    /// Runs a program; `None` if it is not in the cache. The guard keeps the code in place until the call is over.
    pub(crate) fn run(&self, _guard: &Guard<'_>, unit: usize, machine: &mut Machine, case: &Case) -> Option<i64> {
        let line = &self.table[unit];
        let code = line.entry.load(Ordering::Acquire);
        if code.is_null() {
            return None;
        }
        if !line.used.load(Ordering::Relaxed) {
            line.used.store(true, Ordering::Relaxed);
        }
        machine.reset(self.units[unit].program.steps);
        // SAFETY: the table holds null or what `insert` made of a function pointer of this very type.
        let entry = unsafe { std::mem::transmute::<*mut (), Entry>(code) };
        // SAFETY: the code was compiled for this signature; the machine is exclusively ours, and `arguments` has as many
        // words as any entry reads. The address was loaded under the guard and is cleared before its block is dropped,
        // so that the code stays until the guard goes. Its stack is bounded, see `MAX_DEPTH`.
        Some(unsafe { entry(machine, case.arguments.as_ptr()) })
    }

    /// Publishes programs in one batch, evicting others as long as there is no room.
    pub(crate) fn load(&self, wanted: &[usize]) -> Result<(), Failure> {
        for _ in 0..MAX_TRIES {
            match self.publish(wanted) {
                Ok(blocks) => return self.insert(wanted, blocks),
                Err(Error::ArenaFull { .. }) => {
                    self.tally.full.add(1);
                    let batch: usize = wanted.iter().map(|unit| self.units[*unit].object.bytes()).sum();
                    // What was evicted before may wait for the guard of a thread that is not running. Then waiting as
                    // well is better than to evict still more.
                    let waits = self.arena.stats().pending_bytes >= batch;
                    if waits || !self.evict(batch.max(self.arena.capacity() / 16)) {
                        thread::sleep(PAUSE);
                    }
                }
                Err(error) => return Err(Failure::Run(format!("cannot publish: {error}"))),
            }
        }
        Err(Failure::Run("the arena stays full with everything evicted".to_owned()))
    }

    /// Places, links and publishes; a failure leaves nothing behind in the arena.
    fn publish(&self, wanted: &[usize]) -> Result<Vec<CodeBlock>, Error> {
        let start = Instant::now();
        let mut batch = self.arena.batch();
        let mut slots = Vec::with_capacity(wanted.len());
        for &unit in wanted {
            slots.push(self.place(&mut batch, unit)?);
        }
        let placed = Instant::now();
        // From here on every function has its final address, so that calls can be patched in whatever direction.
        for (&unit, slots) in wanted.iter().zip(&slots) {
            self.link(&mut batch, unit, slots)?;
        }
        let linked = Instant::now();
        let blocks = batch.publish()?;
        self.tally.push_time.add_time(placed - start);
        self.tally.link_time.add_time(linked - placed);
        self.tally.publish_time.add_time(linked.elapsed());
        self.tally.batches.add(1);
        Ok(blocks)
    }

    /// Finds room for all functions of a program.
    fn place(&self, batch: &mut Batch, unit: usize) -> Result<Vec<Slot>, Error> {
        let mut slots = Vec::new();
        for (number, piece) in self.units[unit].object.pieces.iter().enumerate() {
            let code = Code::new(&piece.bytes).align(piece.align).tag(tag(unit, number)).name(&piece.name);
            slots.push(batch.push(code)?);
        }
        Ok(slots)
    }

    fn link(&self, batch: &mut Batch, unit: usize, slots: &[Slot]) -> Result<(), Error> {
        for (piece, slot) in self.units[unit].object.pieces.iter().zip(slots) {
            for open in &piece.relocations {
                batch.link(*slot, open.offset, open.kind, Target::Slot(slots[open.target]), open.addend)?;
            }
        }
        Ok(())
    }

    /// Puts published programs into the table. `blocks` has their pieces one after another.
    fn insert(&self, wanted: &[usize], blocks: Vec<CodeBlock>) -> Result<(), Failure> {
        let mut blocks = blocks.into_iter();
        for &unit in wanted {
            let pieces: Vec<_> = blocks.by_ref().take(self.units[unit].object.pieces.len()).collect();
            let Some(trampoline) = pieces.last() else {
                return Err(Failure::Run("a batch gave fewer blocks than it had slots".to_owned()));
            };
            self.check_lookup(unit, &pieces);
            // SAFETY: the last piece is the trampoline, compiled with this signature.
            let entry = unsafe { trampoline.as_fn::<Entry>() };
            self.tally.programs.add(1);
            self.tally.functions.add(pieces.len());
            self.tally.bytes.add(self.units[unit].object.bytes());
            let mut owners = self.owners();
            if owners.blocks[unit].is_empty() {
                owners.blocks[unit] = pieces;
                self.table[unit].used.store(true, Ordering::Relaxed);
                self.table[unit].entry.store(entry as *mut (), Ordering::Release);
            } else {
                self.tally.duplicates.add(1);
            }
        }
        Ok(())
    }

    /// Every address inside a block has to lead back to its tag.
    fn check_lookup(&self, unit: usize, pieces: &[CodeBlock]) {
        for (number, block) in pieces.iter().enumerate() {
            let inside = block.as_ptr().wrapping_add(block.len() - 1);
            let found = self.arena.lookup(inside).map(|info| (info.start, info.tag));
            if found != Some((block.as_ptr(), tag(unit, number))) {
                let name = &self.units[unit].object.pieces[number].name;
                self.tally.mismatch(|| format!("{name}: lookup of its last byte gives {found:?}"));
            }
        }
    }

    /// Drops programs that were not called of late, until so many bytes of code are gone. False if there are none.
    fn evict(&self, goal: usize) -> bool {
        let mut victims = Vec::new();
        let mut bytes = 0;
        let mut owners = self.owners();
        // Once round takes all marks away, so twice round is enough whatever was called.
        for _ in 0..2 * self.table.len() {
            if bytes >= goal {
                break;
            }
            owners.hand = (owners.hand + 1) % self.table.len();
            let unit = owners.hand;
            if owners.blocks[unit].is_empty() || self.table[unit].used.swap(false, Ordering::Relaxed) {
                continue;
            }
            // Nobody can find the program any more before its blocks are dropped below.
            self.table[unit].entry.store(ptr::null_mut(), Ordering::Release);
            victims.append(&mut owners.blocks[unit]);
            bytes += self.units[unit].object.bytes();
            self.tally.evicted_programs.add(1);
        }
        drop(owners);
        self.tally.evicted_functions.add(victims.len());
        let start = Instant::now();
        drop(victims);
        self.tally.drop_time.add_time(start.elapsed());
        bytes > 0
    }

    fn owners(&self) -> MutexGuard<'_, Owners> {
        // Nothing in here is left half done by a panic.
        self.owners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The number a block carries: its program and its piece.
fn tag(unit: usize, piece: usize) -> u64 {
    (unit as u64) << 16 | piece as u64
}
