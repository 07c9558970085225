//! Function tables of Windows: one callback for each arena, which the system asks for the entry of
//! an address.
//!
//! `RtlInstallFunctionTableCallback` and "x64 exception handling", "ARM64 exception handling"
//! (Microsoft Learn). Addresses in a table count from the base that the table was installed with:
//! here the first byte of the arena, which reaches no further than 2 GiB.

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

/// What is installed, by the first address of its arena.
pub(super) struct Tables(Mutex<BTreeMap<usize, Table>>);

/// The table of one arena. The system knows its address.
struct Table {
    functions: Arc<Functions>,
    len: usize,
}

struct Functions {
    base: usize,
    /// By first address, with the end of the code; unwinding goes on with the addresses of the
    /// entries.
    entries: Mutex<BTreeMap<usize, (usize, Arc<RuntimeFunction>)>>,
}

/// Called by the system with the address of an instruction, on whatever thread unwinds there.
unsafe extern "system" fn find<T>(pc: u64, context: *const c_void) -> *mut T {
    // SAFETY: the context of a table is its `Functions`, which outlive it.
    let functions = unsafe { &*context.cast::<Functions>() };
    let Ok(pc) = usize::try_from(pc) else { return ptr::null_mut() };
    let entries = functions.entries.lock();
    let found = entries.range(..=pc).next_back().filter(|(_, (end, _))| pc < *end);
    found.map_or(ptr::null_mut(), |(_, (_, entry))| Arc::as_ptr(entry).cast_mut().cast())
}

/// How the system tells a callback from a table of its own kind: by the low two bits.
fn identifier(base: usize) -> usize {
    base | 3
}

impl Table {
    fn new(space: &Reservation) -> Option<Self> {
        let base = space.start.addr();
        let functions = Arc::new(Functions { base, entries: Mutex::new(BTreeMap::new()) });
        let (len, context) = (u32::try_from(space.len).ok()?, Arc::as_ptr(&functions).cast());
        // SAFETY: the callback is of the right kind, allocates nothing and does not unwind; the
        // context lives until the table is deleted. There is no library for other processes.
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
        // SAFETY: what the table was installed with; no code of the arena is left to unwind
        // through.
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
        // Attached twice, it hears of an arena twice.
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
        // Without the lock: it waits for callbacks.
        drop(gone);
    }
}

/// The table of the arena that a block lies in.
fn around<'t>(tables: &'t BTreeMap<usize, Table>, block: &BlockInfo) -> Option<&'t Table> {
    let (base, table) = tables.range(..=block.start.addr()).next_back()?;
    (block.start.addr() - base < table.len).then_some(table)
}

/// Where the unwind information of a function begins, and how much of it is code.
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
        // Handlers and chained entries are named by addresses that count from the table's base.
        if !matches!(version, 1 | 2) || flags != 0 || usize::from(second) > code {
            return Err(refused);
        }
        4 + 2 * usize::from(third).next_multiple_of(2)
    } else {
        let header = u32::from_le_bytes([first, second, third, fourth]);
        let (len, version, handler) = (4 * (header & 0x3ffff) as usize, header >> 18 & 3, header >> 20 & 1);
        let (single, epilogues, words) = (header >> 21 & 1, header >> 22 & 0x1f, header >> 27);
        // No epilogues and no words: another word says how many.
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
