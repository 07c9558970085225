//! `FileWrite`: shared memory that is mapped once, executable. It is written through the descriptor
//! of the file behind it.
//!
//! ```text
//! view   r-x  <--- anonymous file <--- pwrite by the descriptor      no address is writable
//! ```
//!
//! - *Reserved*: one view of an anonymous file. All of it is executable as long as the arena lives.
//!   There is no writable view, and none can be made of this one.
//! - *Writing*: functions, batches and patches are written by `pwrite`. After each write the bytes
//!   are compared with the view. Other code may have closed the descriptor and use its number for
//!   something else; then the bytes would be lost without an error.
//! - *Fresh memory*: zeros are written to a few pages ahead of functions. The first touch of a page
//!   through the view is a fault, which maps all pages around it that have memory.
//! - *Returning memory*: by a hole in the file. This changes no mapping, so it works while the
//!   mappings are sealed.
//! - *Forked children*: a child shares the memory, and inherits the descriptor.

use std::ops::Range;

use super::memory::CodeMemory;
use super::mode::Mode;
use super::rules::{Readers, Rules, Trims, WayIn};
use super::wx_mode::WxMode;
use super::{padded, probe};
use crate::Error;
use crate::region::{Plan, Region, refusal};
use crate::sys::{self, CodeFile, Os, PREFAULTED, Refused};

struct FileWrite {
    file: CodeFile,
    trims: Trims,
}

pub(super) fn build(os: &'static dyn Os, plan: &Plan) -> Result<CodeMemory, Error> {
    let place = plan.place(os)?;
    let file = os.create_code_file(plan.len, plan.name.as_deref()).map_err(|refused| match refused.source.kind() {
        // A limit is a matter of configuration, like a policy.
        std::io::ErrorKind::FileTooLarge => Error::unsupported(
            "FileWrite",
            format!("{} is below {} bytes: raise it or ask for less capacity", refused.call, plan.len),
        ),
        _ => refusal("FileWrite")(refused),
    })?;
    // SAFETY: the file is empty.
    let tried = unsafe { os.decommit_code_file(&file, 0, os.page_size()) }.map_err(refusal("FileWrite"));
    // A refusal by a policy stays. Every other refusal passes.
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
            prefaults: true,
            readers: Readers::SharedWithParent,
        }
    }

    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: inside the region, which is as long as the file. The caller promises that nobody
        // else uses the bytes.
        unsafe { region.os().write_code_file(&self.file, offset, bytes)? };
        // SAFETY: inside the region, mapped and readable. The caller promises that nobody writes
        // there.
        let seen = unsafe { std::slice::from_raw_parts(region.address(offset), bytes.len()) };
        if seen != bytes {
            self.file.lose();
            return Err(sys::elsewhere("pwrite").into());
        }
        Ok(())
    }

    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        // SAFETY: parts of the range that is passed on to the caller.
        padded::write(offset, code, padding, region.poisons(), |at, bytes| unsafe { self.write(region, at, bytes) })
    }

    unsafe fn prefault(&self, region: &Region, range: Range<usize>) -> sys::Result<()> {
        // A handler of signals may fork in the middle of this, and return in the child, where the
        // parent's code is in the file.
        range.clone().step_by(PREFAULTED).take_while(|_| region.is_own()).try_for_each(|at| {
            // SAFETY: inside the file. The rest is passed on to the caller.
            unsafe { region.os().prefault_code_file(&self.file, at, PREFAULTED.min(range.end - at)) }
        })
    }

    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()> {
        // SAFETY: inside the file. The rest is passed on to the caller.
        unsafe { region.os().decommit_code_file(&self.file, range.start, range.len()) }
    }

    /// Gives the memory back, because that needs no change of the mappings.
    unsafe fn abandon(&mut self, region: &Region) {
        if region.is_own() {
            region.counters.decommits.add(1);
            // SAFETY: passed on to the caller.
            let _ = unsafe { self.decommit(region, 0..region.len()) };
        }
    }
}
