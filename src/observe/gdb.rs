//! Names, breakpoints and frames in gdb and lldb.
//!
//! # Structure
//!
//! Each publication makes one ELF object ([`super::elf`]), which enters the list that debuggers
//! read ([`super::gdb_list`]). Its functions retire one by one, but an object leaves only whole: so
//! it stays until the last of them is gone. If code is published meanwhile where one of them was, a
//! debugger would find two objects for that place. Then the old object is replaced by one without
//! those that have retired, first.
//!
//! gdb takes time for each object that grows with the number of objects: to attach to 8,000 took 46
//! s. So there are [`FEW`] of them, or one for each [`TOGETHER`] functions if that is more. With
//! one more, the smallest are joined. The joined object enters the list before the others leave it,
//! so that a breakpoint has a function at every moment.
//!
//! All that is process-wide, as the list is; a [`Gdb`] is only the right to it. One lock guards it,
//! held for a few searches in an ordered map for each function; objects are made without it, except
//! those that replace others.
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

/// Tells gdb and lldb of functions, by gdb's JIT interface: a breakpoint on the name of a function
/// works, also before it is published (`set breakpoint pending on`), and backtraces name it.
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
/// lldb has to be told to listen, but on Apple's systems, and takes names with a `::` as regular
/// expressions only (seen with lldb 14 on Linux).
///
/// # Backtraces
///
/// Where [`Code::unwind`](crate::Code::unwind) gave call frame information, a debugger goes by
/// that. Otherwise it looks at the function's first instructions; on x86-64 it finds the caller if
/// these are `push rbp; mov rbp, rsp`, else often not.
///
/// # Breakpoints
///
/// In `DualMap` a debugger cannot write to the code, as that is shared memory which is not writable
/// where it runs: use hardware breakpoints (`hbreak`), which work by name as well. `break` works in
/// the other modes.
///
/// gdb does not notice that the code under a `break` was replaced. The breakpoint is gone with the
/// old code, and when gdb stops next it writes the instruction that was there before over the new
/// one: the program may then crash. So while you debug with breakpoints in code of an arena, hold a
/// guard ([`CodeArena::pin`](crate::CodeArena::pin)), which keeps the space of retired functions
/// from being used again, or use `hbreak`.
///
/// # Cost
///
/// Some microseconds for each publication while no debugger is attached, and 10 to 50 µs for one
/// that takes the place of another in an arena of thousands of functions, because what shares an
/// object with the old one is described again. With a debugger it is some milliseconds, because the
/// program is stopped each time: publish in batches.
///
/// Functions that were published one by one share objects once there are more than 512 of these. So
/// a debugger that attaches to 10,000 or to 100,000 functions is ready after about a second (gdb
/// 13). An object for each took 1.7 s for 2,000 functions, 5.6 s for 4,000, and 46 s for 8,000.
/// What has retired may keep its name until the object is replaced.
///
/// # Other code that does the same
///
/// The symbols `__jit_debug_descriptor` and `__jit_debug_register_code` can be defined once in a
/// program. LLVM's JIT and wasmtime define them as well: linked statically beside one of these, the
/// program does not link ("multiple definition of `__jit_debug_register_code`"), and this crate's
/// feature `gdb` has to stay off. A debugger finds them in a program that is not stripped
/// (`strip = "debuginfo"` leaves them).
pub struct Gdb(());

/// All objects in the debuggers' list that arenas put there.
static BOOK: ProcessLock<Book> = ProcessLock::new(Book::new());
static LOST: AtomicU64 = AtomicU64::new(0);
/// Functions from which on an object that has to be made anew becomes two: where functions of a
/// large batch are replaced one by one, each replacement would have to describe all of the others
/// again.
const DIVIDED: usize = 32;
/// Objects that there may be however few the functions.
const FEW: usize = 512;
/// Functions for each of which there may be one object more.
const TOGETHER: usize = 256;
/// Objects that are joined at once, at most. So the next ones can come without joining any.
const JOINED: usize = 16;

struct Book {
    /// Every function of every object, by address. They do not overlap.
    places: BTreeMap<usize, Place>,
    /// By number.
    objects: BTreeMap<u64, Object>,
    /// How many functions each object has, and its number.
    sizes: BTreeSet<(usize, u64)>,
    next: u64,
}

struct Place {
    end: usize,
    object: u64,
    /// Whether it is not retired.
    live: bool,
}

struct Object {
    functions: Vec<Function>,
    /// Those not retired.
    live: usize,
    /// `None` if there was no object to be had.
    _listed: Option<Listed>,
}

impl Gdb {
    /// Does nothing yet.
    ///
    /// # Errors
    /// [`Error::Unsupported`] on an architecture for which ELF has no name here.
    pub fn new() -> Result<Self, Error> {
        match MACHINE {
            Some(_) => Ok(Self(())),
            None => Err(Error::unsupported("Gdb", "ELF has no name for this architecture")),
        }
    }

    /// Functions of this process that debuggers cannot be told of: there was no object to be had,
    /// or the process was forked while another thread published, so that the list cannot be used
    /// any more.
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
                BOOK.lock()?.enter(functions, file);
                Some(())
            });
            if entered.is_none() {
                LOST.fetch_add(count, Ordering::Relaxed);
            }
        }
    }

    fn retired(&self, block: &BlockInfo) {
        if let Some(mut book) = BOOK.lock() {
            book.retire(block.start.addr());
        }
    }
}

impl Book {
    const fn new() -> Self {
        Self { places: BTreeMap::new(), objects: BTreeMap::new(), sizes: BTreeSet::new(), next: 0 }
    }

    /// `file` tells of `functions`, which were published just now.
    fn enter(&mut self, functions: Vec<Function>, file: Vec<u8>) {
        // Whatever is in their place is gone; also if nobody said so, as in a child that dropped
        // its parent's arena.
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
        if self.objects.len() <= FEW.max(self.places.len() / TOGETHER) {
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
        // They leave the list now that the functions are in it again.
        drop(joined);
    }

    /// Takes the functions that have retired out of an object, and out of the places.
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
        let mut book = Book::new();
        book.enter(functions((1..=elf::MOST).map(|n| 16 * n)), Vec::new());
        let mut described = 0;
        for n in 1..=elf::MOST {
            let known: BTreeSet<u64> = book.objects.keys().copied().collect();
            book.retire(16 * n);
            book.enter(functions(std::iter::once(16 * n)), Vec::new());
            let new = book.objects.iter().filter(|(number, _)| !known.contains(number));
            described += new.map(|(_, object)| object.functions.len()).sum::<usize>();
            assert_eq!(book.places.len(), elf::MOST);
        }
        assert!(described < 40 * elf::MOST, "{described}");
        (1..=elf::MOST).for_each(|n| book.retire(16 * n));
        assert!(book.places.is_empty() && book.objects.is_empty() && book.sizes.is_empty());
    }

    /// A debugger takes time for each object, and the longer the more there are.
    #[test]
    fn functions_that_come_one_by_one_share_objects_at_little_cost() {
        let mut book = Book::new();
        let count = 10_000;
        let (mut described, mut random) = (0, fastrand::Rng::with_seed(9));
        let enter = |book: &mut Book, n: usize, described: &mut usize| {
            let next = book.next;
            book.enter(functions(std::iter::once(16 * n)), Vec::new());
            assert!(book.objects.len() <= FEW, "{} objects", book.objects.len());
            let new = book.objects.range(next..);
            *described += new.map(|(_, object)| object.functions.len()).sum::<usize>();
        };
        (1..=count).for_each(|n| enter(&mut book, n, &mut described));
        assert!(described < 20 * count, "{described} descriptions for {count} functions");
        described = 0;
        for _ in 0..count {
            let n = random.usize(1..=count);
            book.retire(16 * n);
            enter(&mut book, n, &mut described);
            assert_eq!(book.places.len(), count);
        }
        assert!(described < 200 * count, "{described} descriptions for {count} replacements");
        // Each is in the object that its place says, and all objects are in order.
        for (number, object) in &book.objects {
            assert!(object.functions.is_sorted_by_key(|function| function.address));
            assert!(object.functions.iter().all(|function| book.places[&function.address].object == *number));
            assert_eq!(object.live, object.functions.len());
        }
        (1..=count).for_each(|n| book.retire(16 * n));
        assert!(book.places.is_empty() && book.objects.is_empty() && book.sizes.is_empty());
    }

    /// What has retired is not taken along.
    #[test]
    fn what_has_retired_is_not_joined() {
        let mut book = Book::new();
        for n in 0..FEW {
            book.enter(functions([64 * n + 16, 64 * n + 32].into_iter()), Vec::new());
            book.retire(64 * n + 16);
        }
        book.enter(functions(std::iter::once(1 << 30)), Vec::new());
        assert_eq!(book.objects.len(), FEW + 1 - JOINED + 1);
        // The smallest, which is the new one, and others of which one function lives.
        let joined = book.objects.values().next_back().map(|object| (object.functions.len(), object.live));
        assert_eq!(joined, Some((JOINED, JOINED)));
        assert_eq!(book.places.len(), 2 * FEW + 1 - (JOINED - 1));
    }
}
