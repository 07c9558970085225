//! Constants that share pages: written by the kernel, into pages that are read-only for everyone.
//!
//! The writer is the one that fills holes in code in `Flip`: one descriptor for the process. Other
//! modes come to use it with the first constants.

use std::ptr::NonNull;

use super::space::Space;
use super::{DataKind, Way};
use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::space::Run;
use crate::sys::{KernelWriter, Refused};
use crate::units::GRANULE;

/// What a page holds when the writer is tried out, and what it writes.
const TRIED: [[u8; GRANULE]; 2] = [*b"gaia-jit, before", *b"after, gaia-jit."];

impl Core {
    /// How constants get to their place. Found out when it is first asked for.
    pub(in crate::arena) fn constants_way(&self) -> Result<Way, Error> {
        if self.memory.is_given() {
            return Ok(Way::Stores);
        }
        // In `Flip` the arena knows already that it is refused, perhaps only by now.
        if self.memory.unfilled().is_some() {
            return Ok(Way::Pages);
        }
        if let Some(way) = self.data.lock().as_ref().and_then(|space| space.way) {
            return Ok(way);
        }
        if self.memory.kernel_writer().is_some() {
            return Ok(Way::Kernel);
        }
        let way = self.try_out()?;
        self.set_way(way);
        Ok(way)
    }

    fn set_way(&self, way: Way) {
        if let Some(space) = self.data.lock().as_mut() {
            space.way = Some(way);
        }
    }

    /// Writes to a page of the area's through the kernel, if that page is what it writes to. Any
    /// doubt counts as refused.
    fn try_out(&self) -> Result<Way, Error> {
        let page = (self.memory.page_size() / GRANULE) as u32;
        let run = self.take_data(DataKind::Constant, page, page)?;
        let at = self.memory.data_start(bytes_of(run).start);
        let [before, after] = TRIED;
        // SAFETY: pages of this call's own that are writable.
        unsafe { at.cast::<[u8; GRANULE]>().write_volatile(before) };
        let os = self.memory.os();
        let write = |writer: KernelWriter| {
            let mut seen = [0; GRANULE];
            os.kernel_read(&writer, at, &mut seen).ok().filter(|()| seen == before)?;
            // SAFETY: a private page of this call's own.
            unsafe { os.kernel_write(&writer, at, &after) }.ok()
        };
        let written = os.open_kernel_writer().ok().and_then(write);
        // SAFETY: as above; volatile, as the kernel wrote there.
        let seen = unsafe { at.cast::<[u8; GRANULE]>().read_volatile() };
        self.free_data([run]);
        Ok(if written.is_some() && seen == after { Way::Kernel } else { Way::Pages })
    }

    /// Takes granules for constants in pages that are read-only, shared with other constants. Only
    /// by [`Way::Kernel`].
    pub(in crate::arena) fn take_shared(&self, len: u32, align: u32) -> Result<Run, Error> {
        self.memory.check_own("reserve data")?;
        let mut area = self.data_space()?;
        let Some(space) = area.as_mut() else { return Err(Error::out_of_memory()) };
        let run = self.take_or_reclaim(space, DataKind::Constant, len, align)?;
        let mut at = space.pages_ahead(run);
        // A page with a hole in this heap holds constants and is read-only, or holds nothing.
        while let Some(open) = space.read_only.next_run(at.clone(), false) {
            // SAFETY: pages of the area in which nothing is that has to be writable.
            if let Err(refused) = unsafe { self.close_pages(space, open.clone()) } {
                space.free(run);
                return Err(refused);
            }
            at.start = open.end;
        }
        space.touch(run);
        Ok(run)
    }

    /// Writes constants to their place by the kernel.
    ///
    /// # Safety
    /// - The run came from [`Core::take_shared`] and is the caller's; nobody reads it meanwhile.
    ///   There are no more bytes than it has.
    pub(in crate::arena) unsafe fn write_shared(&self, run: Run, bytes: &[u8]) -> Result<(), Error> {
        debug_assert!(bytes.len() <= bytes_of(run).len());
        self.memory.check_own("write data")?;
        let at = self.memory.data_start(bytes_of(run).start);
        // What comes next takes another way: a sandbox that the process entered stays. What passes
        // says nothing.
        let note = |refused: Refused| {
            if !refused.passes() && refused.source.kind() != std::io::ErrorKind::OutOfMemory {
                self.set_way(Way::Pages);
            }
            Error::from(refused)
        };
        let opened = match self.memory.kernel_writer() {
            Some(_) => None,
            None => Some(self.memory.os().open_kernel_writer().map_err(note)?),
        };
        let Some(writer) = self.memory.kernel_writer().or(opened.as_ref()) else {
            return Err(Error::unsupported("constants in shared pages", "the kernel write is refused here"));
        };
        self.memory.counters.kernel_writes.add(1);
        // SAFETY: private pages of the area; passed on to the caller.
        unsafe { self.memory.os().kernel_write(writer, at, bytes) }.map_err(note)
    }

    /// Writes constants to whole pages that are open.
    ///
    /// # Safety
    /// - `at` is the start of writable granules of the caller's, for as many bytes.
    pub(in crate::arena) unsafe fn store(at: NonNull<u8>, bytes: &[u8]) {
        // SAFETY: passed on to the caller.
        unsafe { at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// Makes pages read-only, whatever they were.
    ///
    /// # Safety
    /// - Nothing in the pages has to be writable.
    unsafe fn close_pages(&self, space: &mut Space, pages: std::ops::Range<usize>) -> Result<(), Error> {
        space.writable.remove(pages.clone());
        // SAFETY: passed on to the caller.
        unsafe { self.memory.close_data(self.data_bytes(pages.clone()))? };
        space.read_only.insert(pages);
        Ok(())
    }
}
