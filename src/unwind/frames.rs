//! The functions that are registered with the process's unwinder by call frame information.
//!
//! ```text
//! libgcc since 13, libunwind:  function -> its own registration
//!
//! libgcc before 13 (lists):    | window 0: 16 KiB | window 1 | window 2 | ...   of addresses
//!                              | f g h            | i        |          |
//!                                one table          one table
//! ```
//!
//! Each function is registered by itself, except with a libgcc that keeps lists. There the time of
//! every registration, deregistration and unwinding grows with the length of the lists. So all
//! functions that begin in one *window* of 16 KiB are registered as one table.
//!
//! A table is replaced when a function is published or freed in its window. The new table is
//! registered before the old one is deregistered. So every live function can be found at every
//! moment. The frames themselves do not move. Tables belong to windows, not to publications,
//! because this libgcc searches an address only in the table that begins last before it.
//!
//! # Locks and signals
//!
//! Every change happens under one lock of the process ([`Access`]), with signals blocked. It ends
//! with a search, so that a profiler's signal handler finds as little unfinished work as possible.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;
use super::eh_frame::{self, Frames};
use super::registration::{NoSignals, RegisterTable, Registered, Table, list_of_tables, search};
use crate::sync::{Arc, AtomicUsize, Ordering};
use crate::sys::process_lock::{ProcessGuard, ProcessLock};
use crate::{BlockInfo, Error, Published, Reservation, UnwindInfo};

/// The bytes of a window.
const WINDOW: usize = 16 << 10;

/// The registrations of all unwinders of the process.
///
/// They are in one place, because libgcc since 13 accepts one entry for an address only. It ignores
/// the second one, and aborts when that is deregistered. A function in two unwinders is registered
/// for the last of them. In a forked child there may be functions here that were freed without an
/// event, and others in their place.
static STATE: ProcessLock<State> = ProcessLock::new(State::new(Register::Unknown));

/// The part of one unwinder.
pub(super) struct Tables {
    state: &'static ProcessLock<State>,
    registered: Count,
}

/// The number of functions that one unwinder has registered.
type Count = Arc<AtomicUsize>;

struct State {
    /// The tables by number of their window. They are dropped first, because they refer to the
    /// frames of functions.
    tables: BTreeMap<usize, Table>,
    /// The functions by first address.
    functions: BTreeMap<usize, Function>,
    register: Register,
    /// Whether there is a registration that no search has visited yet.
    is_new: bool,
}

/// The way in which functions are registered.
#[derive(Clone, Copy)]
enum Register {
    Unknown,
    OneByOne,
    Tables(RegisterTable),
}

/// The right to register. The drop makes the unwinder visit new registrations, and then unblocks
/// signals.
struct Access<'a> {
    /// Dropped before `state`.
    _no_signals: NoSignals,
    state: ProcessGuard<'a, State>,
}

struct Function {
    end: usize,
    known: Known,
    of: Count,
}

/// The registration of a function.
enum Known {
    Alone { _registered: Registered },
    InTable(Frames),
}

fn window(address: usize) -> usize {
    address / WINDOW
}

impl State {
    const fn new(register: Register) -> Self {
        Self { tables: BTreeMap::new(), functions: BTreeMap::new(), register, is_new: false }
    }

    /// Returns how functions are registered. This is found out for the first function.
    fn register(&mut self) -> Register {
        if let Register::Unknown = self.register {
            self.register = list_of_tables().map_or(Register::OneByOne, Register::Tables);
        }
        self.register
    }

    fn insert(&mut self, block: &BlockInfo, frames: Frames, of: &Count) {
        let known = match self.register() {
            Register::Tables(_) => Known::InTable(frames),
            _ => Known::Alone { _registered: Registered::new(frames) },
        };
        self.is_new = true;
        let start = block.start.addr();
        of.fetch_add(1, Ordering::Relaxed);
        self.functions.insert(start, Function { end: start + block.len, known, of: Arc::clone(of) });
    }

    /// Replaces the tables of windows by tables of their present functions.
    fn update(&mut self, windows: impl IntoIterator<Item = usize>) {
        let Register::Tables(register) = self.register else { return };
        for number in windows {
            let start = number * WINDOW;
            let inside = self.functions.range(start..).take_while(|(at, _)| window(**at) == number);
            let frames = inside.filter_map(|(_, function)| match &function.known {
                Known::InTable(frames) => Some(frames),
                Known::Alone { .. } => None,
            });
            // SAFETY: frames leave `functions` only by `remove`, which replaces their tables before
            // it drops the frames.
            let table = unsafe { Table::new(register, frames) };
            self.is_new |= table.is_some();
            // The old table is dropped after the new one was registered.
            drop(match table {
                Some(table) => self.tables.insert(number, table),
                None => self.tables.remove(&number),
            });
        }
    }

    /// Deregisters the functions that overlap these bytes.
    fn remove(&mut self, start: usize, end: usize) {
        let mut gone = Vec::new();
        while let Some(at) = self.functions.range(..end).next_back().filter(|(_, f)| f.end > start).map(|(at, _)| *at) {
            gone.extend(self.functions.remove(&at).map(|function| (at, function)));
        }
        for (_, function) in &gone {
            function.of.fetch_sub(1, Ordering::Relaxed);
        }
        let windows: BTreeSet<usize> = gone.iter().map(|(at, _)| window(*at)).collect();
        self.update(windows);
        // No table refers to these functions any more.
        drop(gone);
    }
}

impl<'a> Access<'a> {
    fn new(state: ProcessGuard<'a, State>) -> Self {
        Self { _no_signals: NoSignals::new(), state }
    }
}

impl Drop for Access<'_> {
    fn drop(&mut self) {
        if std::mem::take(&mut self.state.is_new) {
            search();
        }
    }
}

impl Tables {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self { state: &STATE, registered: Count::default() })
    }

    /// Returns tables as for an unwinder that takes functions one by one.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        static ALONE: ProcessLock<State> = ProcessLock::new(State::new(Register::OneByOne));
        Self { state: &ALONE, registered: Count::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.registered.load(Ordering::Relaxed)
    }

    /// Removes registrations at these addresses, because their functions were freed without an
    /// event.
    pub(super) fn reserved(&self, space: &Reservation) {
        self.released(space);
    }

    pub(super) fn publish(&self, functions: &[Published<'_>], mut refuse: impl FnMut(&BlockInfo, Refusal)) {
        let mut taken: Vec<(BlockInfo, Frames)> = Vec::with_capacity(functions.len());
        for function in functions {
            let Some(info) = function.unwind else { continue };
            match relocated(info, function.block.start.addr(), function.block.len) {
                Ok(frames) => taken.push((function.block, frames)),
                Err(why) => refuse(&function.block, why),
            }
        }
        if taken.is_empty() {
            return;
        }
        let Some(mut access) = self.state.lock().map(Access::new) else {
            return taken.iter().for_each(|(block, _)| refuse(block, Refusal::Forked));
        };
        let state = &mut *access.state;
        let mut windows = BTreeSet::new();
        for (block, frames) in taken {
            let start = block.start.addr();
            // If an arena was attached twice, the function is registered already.
            state.remove(start, start + block.len);
            state.insert(&block, frames, &self.registered);
            windows.insert(window(start));
        }
        state.update(windows);
    }

    pub(super) fn free(&self, block: &BlockInfo) {
        let start = block.start.addr();
        if let Some(state) = self.state.lock().filter(|state| state.functions.contains_key(&start)) {
            Access::new(state).state.remove(start, start + block.len);
        }
    }

    pub(super) fn released(&self, space: &Reservation) {
        let start = space.start.addr();
        if let Some(state) = self.state.lock() {
            Access::new(state).state.remove(start, start + space.len);
        }
    }
}

fn relocated(info: UnwindInfo<'_>, start: usize, size: usize) -> Result<Frames, Refusal> {
    match info {
        UnwindInfo::EhFrame(bytes) => eh_frame::relocate(bytes, start, size),
        UnwindInfo::Windows { .. } => Err(Refusal::Form),
    }
}

pub(super) fn check(info: UnwindInfo<'_>, code: &[u8]) -> Result<(), Refusal> {
    relocated(info, 0, code.len()).map(drop)
}
