//! Functions that the process's unwinder knows by their call frame information.
//!
//! Each function is registered by itself, except with a libgcc that keeps lists, where the time of every registration,
//! deregistration and unwinding grows with their length: there all functions that begin in one *stretch* of 16 KiB are
//! registered as one table. A table is replaced when a function comes or goes; the new one is registered before the old one
//! is gone, so that every function that lives can be found at every moment, and the frames themselves stay where they are.
//! Tables are of stretches, and not of publications, as this libgcc looks for an address only in the table that begins
//! last before it.

use std::collections::{BTreeMap, BTreeSet};

use super::Refusal;
use super::eh_frame::{self, Frames};
use super::registration::{RegisterTable, Registered, Table, list_of_tables};
use crate::sync::{Arc, AtomicUsize, Ordering};
use crate::sys::process_lock::ProcessLock;
use crate::{BlockInfo, Error, Published, Reservation, UnwindInfo};

/// Bytes of a stretch.
const STRETCH: usize = 16 << 10;

/// What is registered, by all unwinders: libgcc since 13 takes one entry for an address only, leaves out what comes second,
/// and aborts when that is deregistered. One function in two unwinders is registered for the last of them. And in a forked
/// child there may be functions here that went without a word, and others in their place.
static STATE: ProcessLock<State> = ProcessLock::new(State::new(None));

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
    register: Option<RegisterTable>,
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
    const fn new(register: Option<RegisterTable>) -> Self {
        Self { tables: BTreeMap::new(), functions: BTreeMap::new(), register }
    }

    fn insert(&mut self, block: &BlockInfo, frames: Frames, of: &Count) {
        let known = match self.register {
            Some(_) => Known::InTable(frames),
            None => Known::Alone { _registered: Registered::new(frames) },
        };
        let start = block.start.addr();
        of.fetch_add(1, Ordering::Relaxed);
        self.functions.insert(start, Function { end: start + block.len, known, of: Arc::clone(of) });
    }

    /// Brings the tables of stretches up to date with their functions.
    fn update(&mut self, stretches: impl IntoIterator<Item = usize>) {
        let Some(register) = self.register else { return };
        for number in stretches {
            let start = number * STRETCH;
            let inside = self.functions.range(start..).take_while(|(at, _)| stretch(**at) == number);
            let frames = inside.filter_map(|(_, function)| match &function.known {
                Known::InTable(frames) => Some(frames),
                Known::Alone { .. } => None,
            });
            // SAFETY: frames leave `functions` only by `remove`, which replaces their tables before it drops them.
            let table = unsafe { Table::new(register, frames) };
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

impl Tables {
    pub(super) fn new() -> Result<Self, Error> {
        let tables = Self { state: &STATE, registered: Count::default() };
        if let Some(mut state) = STATE.lock() {
            state.register = list_of_tables();
        }
        Ok(tables)
    }

    /// As with an unwinder that takes functions one by one.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        static ALONE: ProcessLock<State> = ProcessLock::new(State::new(None));
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
        let Some(mut state) = self.state.lock() else {
            return taken.iter().for_each(|(block, _)| refuse(block, Refusal::Forked));
        };
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
        if let Some(mut state) = self.state.lock().filter(|state| state.functions.contains_key(&start)) {
            state.remove(start, start + block.len);
        }
    }

    pub(super) fn released(&self, space: &Reservation) {
        let start = space.start.addr();
        if let Some(mut state) = self.state.lock() {
            state.remove(start, start + space.len);
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
