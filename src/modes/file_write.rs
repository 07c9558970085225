//! `FileWrite`: shared memory mapped once, executable; bytes get in through the descriptor of the
//! file behind it.
//!
//! - *Reserved*: one view of an anonymous file, all of it executable for as long as the arena
//!   lives. There is no writable view, and none can be made of this one.
//! - *Bytes get in*, whatever they are part of, by `pwrite`. What was written is compared with what
//!   the view shows, because a descriptor that other code closed, and whose number it uses for
//!   something else, swallows bytes without an error.
//! - *Pages come back* by a hole in the file, which needs no mapping: also while the mappings are
//!   sealed.
//! - *A forked child* shares the memory, and inherits the descriptor.

use std::ops::Range;

use super::memory::CodeMemory;
use super::mode::Mode;
use super::rules::{Readers, Rules, Trims, WayIn};
use super::wx_mode::WxMode;
use super::{padded, probe};
use crate::Error;
use crate::region::{Plan, Region, refusal};
use crate::sys::{self, CodeFile, Os, Refused};

struct FileWrite {
    file: CodeFile,
    trims: Trims,
}

pub(super) fn build(os: &'static dyn Os, plan: &Plan) -> Result<CodeMemory, Error> {
    let place = plan.place(os)?;
    let file = os.create_code_file(plan.len, plan.name.as_deref()).map_err(|refused| match refused.source.kind() {
        // A limit is configuration, as a policy is.
        std::io::ErrorKind::FileTooLarge => {
            Error::unsupported("FileWrite", format!("{} is below the capacity of {} bytes", refused.call, plan.len))
        }
        _ => refusal("FileWrite")(refused),
    })?;
    // SAFETY: nothing is in it yet.
    let tried = unsafe { os.decommit_code_file(&file, 0, os.page_size()) }.map_err(refusal("FileWrite"));
    // A policy stays, all else passes.
    let trims = if matches!(tried, Err(Error::Unsupported { .. })) { Trims::Nothing } else { Trims::Always };
    let reservation = os
        .map_code_file(&file, &place, plan.executable())
        .map_err(|refused| plan.no_place("FileWrite", &place, refused))?;
    let region = Region::new(os, plan, &place, reservation);
    let mode = FileWrite { file, trims };
    let memory = CodeMemory::new(region, Box::new(mode));
    memory.advise(plan);
    probe::rewriting(&memory, "FileWrite").map_err(|error| match error {
        Error::OperatingSystem { call, bytes, source, .. } => refusal("FileWrite")(Refused { call, source, bytes }),
        other => other,
    })?;
    Ok(memory)
}

impl Mode for FileWrite {
    fn mode(&self) -> WxMode {
        WxMode::FileWrite
    }

    fn rules(&self, _region: &Region) -> Rules {
        Rules {
            fills_holes: true,
            opens_pages: false,
            way_in: WayIn::WriteAtLast,
            trims: self.trims,
            collapses_in_steps: false,
            readers: Readers::SharedWithParent,
        }
    }

    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: inside the region, which is as long as the file; by the caller nobody else uses
        // the bytes.
        unsafe { region.os().write_code_file(&self.file, offset, bytes)? };
        // SAFETY: inside the region, mapped and readable; by the caller nobody writes there.
        let seen = unsafe { std::slice::from_raw_parts(region.address(offset), bytes.len()) };
        if seen != bytes {
            self.file.lose();
            return Err(sys::elsewhere("pwrite").into());
        }
        Ok(())
    }

    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        // SAFETY: parts of what is passed on to the caller.
        padded::write(offset, code, padding, region.poisons(), |at, bytes| unsafe { self.write(region, at, bytes) })
    }

    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()> {
        // SAFETY: inside the file; passed on to the caller.
        unsafe { region.os().decommit_code_file(&self.file, range.start, range.len()) }
    }

    /// The memory goes back, as it can without a change to the mappings.
    unsafe fn abandon(&mut self, region: &Region) {
        if region.is_own() {
            region.counters.decommits.add(1);
            // SAFETY: passed on to the caller.
            let _ = unsafe { self.decommit(region, 0..region.len()) };
        }
    }
}
