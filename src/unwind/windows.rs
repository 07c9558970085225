//! Function tables of Windows.
//!
//! ```text
//! a thread unwinds at an address in the arena
//!   -> Windows calls `find` (installed by RtlInstallFunctionTableCallback, one for each arena)
//!   -> `Functions::entries` -> RUNTIME_FUNCTION: begin, end, UNWIND_INFO, as offsets from the arena
//! ```
//!
//! Sources: `RtlInstallFunctionTableCallback`, "x64 exception handling", and "ARM64 exception
//! handling" (Microsoft Learn). Addresses in a table count from the base with which the table was
//! installed. Here this is the first byte of the arena, which is at most 2 GiB long.
//!
//! The order of locks is: the tables, then the entries of one table. The callback takes the second
//! only. A table is deleted without a lock, because the deletion waits for callbacks.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ffi::c_void;
use std::ptr;

use windows_sys::Win32::System::Diagnostics::Debug::{RtlDeleteFunctionTable, RtlInstallFunctionTableCallback};

use super::Refusal;
use crate::sync::{Arc, Mutex};
use crate::{BlockInfo, Error, Published, Reservation, UnwindInfo};

/// `RUNTIME_FUNCTION`.
#[repr(C)]
struct RuntimeFunction {
    begin: u32,
    #[cfg(target_arch = "x86_64")]
    end: u32,
    unwind: u32,
}

/// The installed tables, by the first address of their arena.
pub(super) struct Tables(Mutex<BTreeMap<usize, Table>>);

/// The table of one arena. The system knows its address.
struct Table {
    functions: Arc<Functions>,
    len: usize,
}

struct Functions {
    base: usize,
    /// The entries by first address, with the end of the code. The unwinder keeps addresses of
    /// entries.
    entries: Mutex<BTreeMap<usize, (usize, Arc<RuntimeFunction>)>>,
}

/// Returns the entry of an instruction's address. The system calls it on the thread that unwinds
/// there.
unsafe extern "system" fn find<T>(pc: u64, context: *const c_void) -> *mut T {
    // SAFETY: the context of a table is its `Functions`, which outlive the table.
    let functions = unsafe { &*context.cast::<Functions>() };
    let Ok(pc) = usize::try_from(pc) else { return ptr::null_mut() };
    let entries = functions.entries.lock();
    let found = entries.range(..=pc).next_back().filter(|(_, (end, _))| pc < *end);
    found.map_or(ptr::null_mut(), |(_, (_, entry))| Arc::as_ptr(entry).cast_mut().cast())
}

/// Returns the identifier of a table with a callback. The low two bits distinguish it from other
/// tables.
fn identifier(base: usize) -> usize {
    base | 3
}

impl Table {
    fn new(space: &Reservation) -> Option<Self> {
        let base = space.start.addr();
        let functions = Arc::new(Functions { base, entries: Mutex::new(BTreeMap::new()) });
        let (len, context) = (u32::try_from(space.len).ok()?, Arc::as_ptr(&functions).cast());
        // SAFETY: the callback has the right type, allocates nothing and does not unwind. The
        // context lives until the table is deleted. No library for other processes is named.
        let installed = unsafe {
            RtlInstallFunctionTableCallback(identifier(base) as u64, base as u64, len, Some(find), context, ptr::null())
        };
        installed.then_some(Self { functions, len: space.len })
    }

    fn insert(&self, block: &BlockInfo, code: &[u8], info: UnwindInfo<'_>) -> Result<(), Refusal> {
        let start = block.start.addr();
        let (offset, len) = checked(info, code)?;
        let offset_of = |address: usize| u32::try_from(address - self.functions.base).map_err(|_| Refusal::NoTable);
        let entry = Arc::new(RuntimeFunction {
            begin: offset_of(start)?,
            #[cfg(target_arch = "x86_64")]
            end: offset_of(start + len)?,
            unwind: offset_of(start + offset)?,
        });
        self.functions.entries.lock().insert(start, (start + len, entry));
        Ok(())
    }
}

impl Drop for Table {
    fn drop(&mut self) {
        let identifier = ptr::without_provenance(identifier(self.functions.base));
        // SAFETY: the table was installed with this identifier. No code of the arena is left to
        // unwind through.
        let _ = unsafe { RtlDeleteFunctionTable(identifier) };
    }
}

impl Tables {
    pub(super) fn new() -> Result<Self, Error> {
        Ok(Self(Mutex::new(BTreeMap::new())))
    }

    pub(super) fn len(&self) -> usize {
        self.0.lock().values().map(|table| table.functions.entries.lock().len()).sum()
    }

    pub(super) fn reserved(&self, space: &Reservation) {
        // If an arena is attached twice, this is called twice for it.
        if let Entry::Vacant(place) = self.0.lock().entry(space.start.addr()) {
            Table::new(space).map(|table| place.insert(table));
        }
    }

    pub(super) fn publish(&self, functions: &[Published<'_>], mut refuse: impl FnMut(&BlockInfo, Refusal)) {
        let tables = self.0.lock();
        for function in functions {
            let Some(info) = function.unwind else { continue };
            let table = around(&tables, &function.block).ok_or(Refusal::NoTable);
            if let Err(why) = table.and_then(|table| table.insert(&function.block, &function.code(), info)) {
                refuse(&function.block, why);
            }
        }
    }

    pub(super) fn free(&self, block: &BlockInfo) {
        if let Some(table) = around(&self.0.lock(), block) {
            table.functions.entries.lock().remove(&block.start.addr());
        }
    }

    pub(super) fn released(&self, space: &Reservation) {
        let gone = self.0.lock().remove(&space.start.addr());
        // The lock is released before, because the deletion waits for callbacks.
        drop(gone);
    }
}

/// Returns the table of the arena that contains a block.
fn around<'t>(tables: &'t BTreeMap<usize, Table>, block: &BlockInfo) -> Option<&'t Table> {
    let (base, table) = tables.range(..=block.start.addr()).next_back()?;
    (block.start.addr() - base < table.len).then_some(table)
}

/// Checks the unwind information of a function. Returns its offset, and the number of bytes of code
/// before it.
fn checked(info: UnwindInfo<'_>, bytes: &[u8]) -> Result<(usize, usize), Refusal> {
    let UnwindInfo::Windows { offset, code } = info else { return Err(Refusal::Form) };
    let refused = Refusal::Windows { at: offset, size: bytes.len() };
    if offset % 4 != 0 || code == 0 || code > offset {
        return Err(refused);
    }
    let info = bytes.get(offset..).ok_or(refused)?;
    let [first, second, third, fourth] = *info.first_chunk::<4>().ok_or(refused)?;
    let needed = if cfg!(target_arch = "x86_64") {
        let (version, flags) = (first & 7, first >> 3);
        // Handlers and chained entries contain addresses that count from the table's base.
        if !matches!(version, 1 | 2) || flags != 0 || usize::from(second) > code {
            return Err(refused);
        }
        4 + 2 * usize::from(third).next_multiple_of(2)
    } else {
        let header = u32::from_le_bytes([first, second, third, fourth]);
        let (len, version, handler) = (4 * (header & 0x3ffff) as usize, header >> 18 & 3, header >> 20 & 1);
        let (single, epilogues, words) = (header >> 21 & 1, header >> 22 & 0x1f, header >> 27);
        // Without epilogues and words, another word contains their numbers.
        if version != 0 || handler != 0 || len > code || (epilogues, words) == (0, 0) {
            return Err(refused);
        }
        4 + 4 * (words as usize + if single == 0 { epilogues as usize } else { 0 })
    };
    if info.len() < needed { Err(refused) } else { Ok((offset, code)) }
}

pub(super) fn check(info: UnwindInfo<'_>, code: &[u8]) -> Result<(), Refusal> {
    checked(info, code).map(drop)
}
