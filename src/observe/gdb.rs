//! An observer for gdb and lldb: names, breakpoints and frames.
//!
//! # Structure
//!
//! ```text
//! publication --> one ELF object (elf) --> the debuggers' list (gdb_list)
//!                     |
//!   all functions retired  --> the object leaves the list
//!   code published in the place of a retired function --> the object is replaced, without the retired ones
//!   too many objects       --> the smallest are joined to one
//! ```
//!
//! - Functions retire one by one, but an object can only leave as a whole. So it stays until its
//!   last function has retired.
//! - If code is published in the place of a retired function, a debugger would find two objects for
//!   that place. So the old object is replaced first, by one without its retired functions.
//! - gdb takes time for each object, and more the more objects there are: attaching to 8,000 took
//!   46 s. So there are at most [`FEW`] objects, or one for each [`PER_OBJECT`] functions if that
//!   is more. Beyond that the smallest objects are joined. The joined object enters the list before
//!   the others leave it, so that a breakpoint has a function at every moment.
//!
//! # Locks
//!
//! The registry is process-wide, as the debuggers' list is, so a [`Gdb`] has no state. The order of
//! locks is: the registry, then the list. The registry's lock is held for a few searches in an
//! ordered map for each function. Objects are made without it, except objects that replace others.
#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;

use super::elf::{self, Function};
use super::gdb_list::Listed;
use super::machine::MACHINE;
use super::{eh_frame, name};
use crate::sync::{AtomicU64, Ordering};
use crate::sys::process_lock::ProcessLock;
use crate::{BlockInfo, Error, Observer, Published};

/// An observer that reports functions to gdb and lldb, by gdb's JIT interface.
///
/// A breakpoint on the name of a function works, also before it is published (`set breakpoint
/// pending on`). Backtraces show its name.
///
/// ```
/// use std::sync::Arc;
/// use gaia_jit::{Code, CodeArena, observe::Gdb};
///
/// let arena = CodeArena::builder().capacity(1 << 20).observer(Arc::new(Gdb::new()?)).build()?;
/// let block = arena.publish(Code::new(&[0xc3]).name("nothing"))?;
/// # Ok::<(), gaia_jit::Error>(())
/// ```
///
/// ```text
/// gdb -ex 'set breakpoint pending on' -ex 'break nothing' -ex run -ex backtrace ./program
/// lldb -o 'settings set plugin.jit-loader.gdb.enable on' -o 'breakpoint set --func-regex nothing' -o run -o bt ./program
/// ```
///
/// lldb needs the setting in this command, except on Apple's systems. It takes names with a `::` as
/// regular expressions only (seen with lldb 14 on Linux).
///
/// # Backtraces
///
/// A debugger uses the call frame information from [`Code::unwind`](crate::Code::unwind). Without
/// it, the debugger reads the function's first instructions. On x86-64 it finds the caller if these
/// are `push rbp; mov rbp, rsp`. Otherwise it may show frames that do not exist.
///
/// # Breakpoints
///
/// In `DualMap` and `FileWrite` a debugger cannot write to the code, because the code is shared
/// memory that is not writable at its executable address. gdb reports no error for a `break` there,
/// and never stops at it. Use hardware breakpoints (`hbreak`), which work by name and before `run`
/// as well. `break` works in the other modes. It stops behind `push rbp; mov rbp, rsp` if the
/// function begins so, else at its first instruction.
///
/// gdb does not notice when the code under a `break` is replaced. The breakpoint is lost with the
/// old code. At its next stop, gdb writes the old instruction over the new one, and the program may
/// crash. So while you debug with breakpoints in code of an arena, hold a guard
/// ([`CodeArena::pin`](crate::CodeArena::pin)) or use `hbreak`. The guard prevents that the space
/// of retired functions is used again.
///
/// # Cost
///
/// | | each publication |
/// |---|---|
/// | without a debugger | some microseconds |
/// | the same, in the place of another function, in an arena of thousands of functions | 10 to 50 µs, because the functions that share an object with the old one are described again |
/// | with a debugger | some milliseconds, because the program is stopped each time: publish in batches |
///
/// Functions that were published one by one share objects if there are more than 512 objects. So a
/// debugger that attaches to 10,000 or to 100,000 functions is ready after about a second (gdb 13).
/// One object for each function took 1.7 s for 2,000 functions, 5.6 s for 4,000, and 46 s for
/// 8,000. A retired function may keep its name until its object is replaced.
///
/// # Other definitions of the interface
///
/// A program can define the symbols `__jit_debug_descriptor` and `__jit_debug_register_code` only
/// once. LLVM's JIT and wasmtime define them as well. A program that contains one of these
/// statically does not link with this crate's feature `gdb` ("multiple definition of
/// `__jit_debug_register_code`"), so the feature has to stay off there. A debugger finds the
/// symbols in a program that is not stripped (`strip = "debuginfo"` keeps them).
///
/// # Signal safety
///
/// No call is safe in a signal handler, because each takes a lock.
///
/// # Fork
///
/// A forked child can use it too, unless the process was forked while another thread published:
/// then functions of the child are [lost](Gdb::lost) to debuggers.
pub struct Gdb(());

/// All objects of arenas in the debuggers' list.
static REGISTRY: ProcessLock<Registry> = ProcessLock::new(Registry::new());
static LOST: AtomicU64 = AtomicU64::new(0);
/// The number of functions at which an object that is replaced is divided into two. If functions of
/// a large batch are replaced one by one, each replacement would otherwise describe all the others
/// again.
const DIVIDED: usize = 32;
/// The number of objects that are allowed for any number of functions.
const FEW: usize = 512;
/// One object more than [`FEW`] is allowed for each so many functions.
const PER_OBJECT: usize = 256;
/// The number of objects that are joined at once, at most. The next publications then join none.
const JOINED: usize = 16;

struct Registry {
    /// Every function of every object, by address. They do not overlap.
    places: BTreeMap<usize, Place>,
    /// The objects by number.
    objects: BTreeMap<u64, Object>,
    /// The number of functions of each object, with the object's number.
    sizes: BTreeSet<(usize, u64)>,
    next: u64,
}

struct Place {
    end: usize,
    object: u64,
    /// Whether the function is not retired.
    live: bool,
}

struct Object {
    functions: Vec<Function>,
    /// The number of functions that are not retired.
    live: usize,
    /// `None` if no object could be made.
    _listed: Option<Listed>,
}

impl Gdb {
    /// Returns the observer. It changes nothing before the first publication.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use gaia_jit::{CodeArena, observe::Gdb};
    ///
    /// let gdb = Arc::new(Gdb::new()?); // one for all arenas, or one for each
    /// let arena = CodeArena::builder().capacity(1 << 20).observer(gdb.clone()).build()?;
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::Unsupported`] on an architecture without a number in ELF.
    pub fn new() -> Result<Self, Error> {
        match MACHINE {
            Some(_) => Ok(Self(())),
            None => Err(Error::unsupported("Gdb", "this architecture has no number in ELF")),
        }
    }

    /// Returns the number of functions of this process that debuggers do not know, because no
    /// object could be made, or because the process was forked while another thread published and
    /// the list cannot be used any more.
    ///
    /// ```
    /// let gdb = gaia_jit::observe::Gdb::new()?;
    /// assert_eq!(gdb.lost(), 0);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn lost(&self) -> u64 {
        LOST.load(Ordering::Relaxed)
    }
}

impl Observer for Gdb {
    fn published(&self, functions: &[Published<'_>]) {
        let mut described: Vec<_> = functions.iter().map(describe).collect();
        described.sort_unstable_by_key(|function| function.address);
        while !described.is_empty() {
            let rest = described.split_off(described.len().min(elf::MOST));
            let functions = std::mem::replace(&mut described, rest);
            let count = functions.len() as u64;
            let entered = object(&functions.iter().collect::<Vec<_>>()).and_then(|file| {
                REGISTRY.lock()?.enter(functions, file);
                Some(())
            });
            if entered.is_none() {
                LOST.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn retired(&self, block: &BlockInfo) {
        if let Some(mut registry) = REGISTRY.lock() {
            registry.retire(block.start.addr());
        }
    }
}

impl Registry {
    const fn new() -> Self {
        Self { places: BTreeMap::new(), objects: BTreeMap::new(), sizes: BTreeSet::new(), next: 0 }
    }

    /// Enters `functions`, which were just published, with the object `file` that describes them.
    fn enter(&mut self, functions: Vec<Function>, file: Vec<u8>) {
        // Functions in their place are gone, even if they were not reported as retired, as in a
        // child that dropped its parent's arena.
        let mut stale = BTreeSet::new();
        for range in functions.iter().map(Function::range) {
            let before = self.places.range_mut(..range.end).rev();
            for (_, place) in before.take_while(|(_, place)| place.end > range.start) {
                place.live = false;
                stale.insert(place.object);
            }
        }
        stale.into_iter().for_each(|number| self.renew(number));
        self.insert(functions, Some(file));
        self.join();
    }

    /// Joins the smallest objects if there are too many.
    fn join(&mut self) {
        if self.objects.len() <= FEW.max(self.places.len() / PER_OBJECT) {
            return;
        }
        let (mut joined, mut functions) = (Vec::new(), Vec::new());
        while joined.len() < JOINED {
            let Some(&(size, number)) = self.sizes.first().filter(|(size, _)| functions.len() + size <= elf::MOST)
            else {
                break;
            };
            self.sizes.remove(&(size, number));
            let Some(mut object) = self.objects.remove(&number) else { continue };
            self.keep_live(&mut object);
            functions.append(&mut object.functions);
            joined.push(object);
        }
        functions.sort_unstable_by_key(|function| function.address);
        self.replace(functions);
        // The old objects leave the list after the new one entered it.
        drop(joined);
    }

    /// Removes the retired functions from an object, and from the places.
    fn keep_live(&mut self, object: &mut Object) {
        object.functions.retain(|function| {
            let live = self.places.get(&function.address).is_some_and(|place| place.live);
            if !live {
                self.places.remove(&function.address);
            }
            live
        });
    }

    /// Enters functions that were in another object before.
    fn replace(&mut self, functions: Vec<Function>) {
        if functions.is_empty() {
            return;
        }
        let file = object(&functions.iter().collect::<Vec<_>>());
        if file.is_none() {
            LOST.fetch_add(functions.len() as u64, Ordering::Relaxed);
        }
        self.insert(functions, file);
    }

    fn insert(&mut self, functions: Vec<Function>, file: Option<Vec<u8>>) {
        let number = self.next;
        self.next += 1;
        for Range { start, end } in functions.iter().map(Function::range) {
            self.places.insert(start, Place { end, object: number, live: true });
        }
        let live = functions.len();
        self.sizes.insert((live, number));
        self.objects.insert(number, Object { functions, live, _listed: file.map(Listed::new) });
    }

    fn remove(&mut self, number: u64) -> Option<Object> {
        let object = self.objects.remove(&number)?;
        self.sizes.remove(&(object.functions.len(), number));
        Some(object)
    }

    /// Replaces an object by one without its retired functions, or by two.
    fn renew(&mut self, number: u64) {
        let Some(mut old) = self.remove(number) else { return };
        self.keep_live(&mut old);
        let Object { mut functions, _listed, .. } = old;
        drop(_listed);
        let half = if functions.len() < DIVIDED { 0 } else { functions.len() / 2 };
        let behind = functions.split_off(half);
        self.replace(functions);
        self.replace(behind);
    }

    fn retire(&mut self, address: usize) {
        let Some(place) = self.places.get_mut(&address).filter(|place| place.live) else { return };
        place.live = false;
        let number = place.object;
        let Some(object) = self.objects.get_mut(&number) else { return };
        object.live -= 1;
        if object.live > 0 {
            return;
        }
        if let Some(object) = self.remove(number) {
            for function in &object.functions {
                self.places.remove(&function.address);
            }
        }
    }
}

impl fmt::Debug for Gdb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Gdb").field("lost", &self.lost()).finish_non_exhaustive()
    }
}

fn describe(function: &Published<'_>) -> Function {
    let (mut name, mut frames) = (Vec::new(), Vec::new());
    name::push(&mut name, function);
    eh_frame::push(&mut frames, function);
    Function { address: function.block.start.addr(), len: function.block.len, name, frames }
}

fn object(functions: &[&Function]) -> Option<Vec<u8>> {
    elf::object(MACHINE?, functions).ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn functions(addresses: impl Iterator<Item = usize>) -> Vec<Function> {
        let function = |address| Function { address, len: 16, name: vec![b'f'], frames: Vec::new() };
        addresses.map(function).collect()
    }

    #[test]
    fn functions_of_a_large_object_are_replaced_at_little_cost() {
        let mut registry = Registry::new();
        registry.enter(functions((1..=elf::MOST).map(|n| 16 * n)), Vec::new());
        let mut described = 0;
        for n in 1..=elf::MOST {
            let known: BTreeSet<u64> = registry.objects.keys().copied().collect();
            registry.retire(16 * n);
            registry.enter(functions(std::iter::once(16 * n)), Vec::new());
            let new = registry.objects.iter().filter(|(number, _)| !known.contains(number));
            described += new.map(|(_, object)| object.functions.len()).sum::<usize>();
            assert_eq!(registry.places.len(), elf::MOST);
        }
        assert!(described < 40 * elf::MOST, "{described}");
        (1..=elf::MOST).for_each(|n| registry.retire(16 * n));
        assert!(registry.places.is_empty() && registry.objects.is_empty() && registry.sizes.is_empty());
    }

    /// A debugger takes time for each object, and more the more objects there are.
    #[test]
    fn functions_published_one_by_one_share_objects_at_little_cost() {
        let mut registry = Registry::new();
        let count = 10_000;
        let (mut described, mut random) = (0, fastrand::Rng::with_seed(9));
        let enter = |registry: &mut Registry, n: usize, described: &mut usize| {
            let next = registry.next;
            registry.enter(functions(std::iter::once(16 * n)), Vec::new());
            assert!(registry.objects.len() <= FEW, "{} objects", registry.objects.len());
            let new = registry.objects.range(next..);
            *described += new.map(|(_, object)| object.functions.len()).sum::<usize>();
        };
        (1..=count).for_each(|n| enter(&mut registry, n, &mut described));
        assert!(described < 20 * count, "{described} descriptions for {count} functions");
        described = 0;
        for _ in 0..count {
            let n = random.usize(1..=count);
            registry.retire(16 * n);
            enter(&mut registry, n, &mut described);
            assert_eq!(registry.places.len(), count);
        }
        assert!(described < 200 * count, "{described} descriptions for {count} replacements");
        // Each function is in the object that its place names, and all objects are in order.
        for (number, object) in &registry.objects {
            assert!(object.functions.is_sorted_by_key(|function| function.address));
            assert!(object.functions.iter().all(|function| registry.places[&function.address].object == *number));
            assert_eq!(object.live, object.functions.len());
        }
        (1..=count).for_each(|n| registry.retire(16 * n));
        assert!(registry.places.is_empty() && registry.objects.is_empty() && registry.sizes.is_empty());
    }

    #[test]
    fn retired_functions_are_not_joined() {
        let mut registry = Registry::new();
        for n in 0..FEW {
            registry.enter(functions([64 * n + 16, 64 * n + 32].into_iter()), Vec::new());
            registry.retire(64 * n + 16);
        }
        registry.enter(functions(std::iter::once(1 << 30)), Vec::new());
        assert_eq!(registry.objects.len(), FEW + 1 - JOINED + 1);
        // The smallest object, which is the new one, and others with one live function each.
        let joined = registry.objects.values().next_back().map(|object| (object.functions.len(), object.live));
        assert_eq!(joined, Some((JOINED, JOINED)));
        assert_eq!(registry.places.len(), 2 * FEW + 1 - (JOINED - 1));
    }
}
