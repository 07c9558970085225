//! Functions that the process's unwinder knows by their call frame information.
//!
//! Each function is registered by itself, except with a libgcc that keeps lists, where the time of every registration,
//! deregistration and unwinding grows with their length: there all functions that begin in one *stretch* of 16 KiB are
//! registered as one table. A table is replaced when a function comes or goes; the new one is registered before the old one
//! is gone, so that every function that lives can be found at every moment, and the frames themselves stay where they are.
//! Tables are of stretches, and not of publications, as this libgcc looks for an address only in the table that begins
//! last before it.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;

use super::Refusal;
use super::eh_frame::{self, Frames};
use super::registration::{RegisterTable, Registered, Table, list_of_tables};
use crate::sync::Mutex;
use crate::{BlockInfo, Error, Published, Reservation, UnwindInfo};

/// Bytes of a stretch.
const STRETCH: usize = 16 << 10;

/// What is registered.
pub(super) struct Tables(Mutex<State>);

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
    fn insert(&mut self, block: &BlockInfo, frames: Frames) {
        let known = match self.register {
            Some(_) => Known::InTable(frames),
            None => Known::Alone { _registered: Registered::new(frames) },
        };
        let start = block.start.addr();
        self.functions.insert(start, Function { end: start + block.len, known });
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
        let stretches: BTreeSet<usize> = gone.iter().map(|(at, _)| stretch(*at)).collect();
        self.update(stretches);
        // No table refers to them any more.
        drop(gone);
    }
}

impl Tables {
    pub(super) fn new() -> Result<Self, Error> {
        let (tables, functions) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self(Mutex::new(State { tables, functions, register: list_of_tables() })))
    }

    /// As with an unwinder that takes functions one by one.
    #[cfg(test)]
    pub(super) fn alone() -> Self {
        Self(Mutex::new(State { tables: BTreeMap::new(), functions: BTreeMap::new(), register: None }))
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().functions.len()
    }

    pub(super) fn reserved(&self, _space: &Reservation) {}

    pub(super) fn publish(&self, functions: &[Published<'_>], mut refuse: impl FnMut(&BlockInfo, Refusal)) {
        let mut taken: Vec<(BlockInfo, Frames)> = Vec::with_capacity(functions.len());
        for function in functions {
            let Some(info) = function.unwind else { continue };
            match relocated(info, function.block.start.addr(), function.block.len) {
                Ok(frames) => taken.push((function.block, frames)),
                Err(why) => refuse(&function.block, why),
            }
        }
        let mut state = self.0.lock();
        let mut stretches = BTreeSet::new();
        for (block, frames) in taken {
            let start = block.start.addr();
            // There is something if an arena was attached twice.
            state.remove(start, start + block.len);
            state.insert(&block, frames);
            stretches.insert(stretch(start));
        }
        state.update(stretches);
    }

    pub(super) fn free(&self, block: &BlockInfo) {
        let start = block.start.addr();
        let mut state = self.0.lock();
        if state.functions.contains_key(&start) {
            state.remove(start, start + block.len);
        }
    }

    pub(super) fn released(&self, space: &Reservation) {
        let start = space.start.addr();
        self.0.lock().remove(start, start + space.len);
    }
}

impl Drop for Tables {
    fn drop(&mut self) {
        // Empty, but for forked children: there the unwinder still knows what is here, and its lock may be held for ever.
        let state = self.0.get_mut();
        mem::forget(mem::take(&mut state.tables));
        mem::forget(mem::take(&mut state.functions));
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
