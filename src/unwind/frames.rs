//! Functions that the process's unwinder knows by their call frame information.
//!
//! Each function is registered by itself, except with a libgcc that keeps lists, where the time of
//! every registration, deregistration and unwinding grows with their length: there all functions
//! that begin in one *stretch* of 16 KiB are registered as one table. A table is replaced when a
//! function comes or goes; the new one is registered before the old one is gone, so that every
//! function that lives can be found at every moment, and the frames themselves stay where they are.
//! Tables are of stretches, and not of publications, as this libgcc looks for an address only in
//! the table that begins last before it.
//!
//! All of it happens under one lock of the process ([`Access`]), without signals, and ends with a
//! search of our own, so that as little as can be is left that a profiler's signal handler may run
//! into.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;
use super::eh_frame::{self, Frames};
use super::registration::{NoSignals, RegisterTable, Registered, Table, list_of_tables, search};
use crate::sync::{Arc, AtomicUsize, Ordering};
use crate::sys::process_lock::{ProcessGuard, ProcessLock};
use crate::{BlockInfo, Error, Published, Reservation, UnwindInfo};

/// Bytes of a stretch.
const STRETCH: usize = 16 << 10;

/// What is registered, by all unwinders: libgcc since 13 takes one entry for an address only,
/// leaves out what comes second, and aborts when that is deregistered. One function in two
/// unwinders is registered for the last of them. And in a forked child there may be functions here
/// that went without a word, and others in their place.
static STATE: ProcessLock<State> = ProcessLock::new(State::new(Register::NotAskedYet));

/// One unwinder's part in it.
pub(super) struct Tables {
    state: &'static ProcessLock<State>,
    registered: Count,
}

/// How many functions one unwinder has registered.
type Count = Arc<AtomicUsize>;

struct State {
    /// By number. They refer to the frames of functions, so they go first.
    tables: BTreeMap<usize, Table>,
    /// By first address.
    functions: BTreeMap<usize, Function>,
    register: Register,
    /// Something was registered that the unwinder may not have looked at yet.
    is_new: bool,
}

/// How functions are registered.
#[derive(Clone, Copy)]
enum Register {
    NotAskedYet,
    OneByOne,
    Tables(RegisterTable),
}

/// The right to register. Dropped, it has the unwinder look at what is new, and then lets signals
/// in again.
struct Access<'a> {
    /// Dropped first.
    _no_signals: NoSignals,
    state: ProcessGuard<'a, State>,
}

struct Function {
    end: usize,
    known: Known,
    of: Count,
}

/// How the unwinder knows a function.
enum Known {
    Alone { _registered: Registered },
    InTable(Frames),
}

fn stretch(address: usize) -> usize {
    address / STRETCH
}

impl State {
    const fn new(register: Register) -> Self {
        Self { tables: BTreeMap::new(), functions: BTreeMap::new(), register, is_new: false }
    }

    /// How functions are registered; found out when the first one comes.
    fn register(&mut self) -> Register {
        if let Register::NotAskedYet = self.register {
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

    /// Brings the tables of stretches up to date with their functions.
    fn update(&mut self, stretches: impl IntoIterator<Item = usize>) {
        let Register::Tables(register) = self.register else { return };
        for number in stretches {
            let start = number * STRETCH;
            let inside = self.functions.range(start..).take_while(|(at, _)| stretch(**at) == number);
            let frames = inside.filter_map(|(_, function)| match &function.known {
                Known::InTable(frames) => Some(frames),
                Known::Alone { .. } => None,
            });
            // SAFETY: frames leave `functions` only by `remove`, which replaces their tables before
            // it drops them.
            let table = unsafe { Table::new(register, frames) };
            self.is_new |= table.is_some();
            // The old one goes now that the new one is there.
            drop(match table {
                Some(table) => self.tables.insert(number, table),
                None => self.tables.remove(&number),
            });
        }
    }

    /// Deregisters functions that have a part in these bytes.
    fn remove(&mut self, start: usize, end: usize) {
        let mut gone = Vec::new();
        while let Some(at) = self.functions.range(..end).next_back().filter(|(_, f)| f.end > start).map(|(at, _)| *at) {
            gone.extend(self.functions.remove(&at).map(|function| (at, function)));
        }
        for (_, function) in &gone {
            function.of.fetch_sub(1, Ordering::Relaxed);
        }
        let stretches: BTreeSet<usize> = gone.iter().map(|(at, _)| stretch(*at)).collect();
        self.update(stretches);
        // No table refers to them any more.
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

    /// As with an unwinder that takes functions one by one.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        static ALONE: ProcessLock<State> = ProcessLock::new(State::new(Register::OneByOne));
        Self { state: &ALONE, registered: Count::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.registered.load(Ordering::Relaxed)
    }

    /// What is registered there went without a word.
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
        let mut stretches = BTreeSet::new();
        for (block, frames) in taken {
            let start = block.start.addr();
            // There is something if an arena was attached twice.
            state.remove(start, start + block.len);
            state.insert(&block, frames, &self.registered);
            stretches.insert(stretch(start));
        }
        state.update(stretches);
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
