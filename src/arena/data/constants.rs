//! Constants that share pages: the kernel writes them into pages that are read-only for every
//! thread.
//!
//! The kernel write is the one that fills holes in code in `Flip`, with one descriptor for the
//! process. Arenas in other modes try it out when they place their first constants.

use std::ptr::NonNull;

use super::space::Space;
use super::{DataKind, Way};
use crate::Error;
use crate::arena::core::{Core, bytes_of};
use crate::space::Run;
use crate::sys::{KernelWriter, Refused};
use crate::units::GRANULE;

/// The content of a page before and after the kernel write is tried out.
const TRIED: [[u8; GRANULE]; 2] = [*b"gaia-jit, before", *b"after, gaia-jit."];

impl Core {
    /// Returns the way by which constants get to their place. The first call finds it out.
    pub(in crate::arena) fn constants_way(&self) -> Result<Way, Error> {
        if self.memory.is_given() {
            return Ok(Way::Stores);
        }
        // In `Flip` the arena knows if the write is refused, perhaps only since its last use.
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

    /// Tries a write through the kernel to a read-only page of the area, and checks that it arrived
    /// there. Hardened kernels allow the call, but only to pages that are writable in any case. Any
    /// doubt counts as refused.
    fn try_out(&self) -> Result<Way, Error> {
        let page = (self.memory.page_size() / GRANULE) as u32;
        let run = self.take_data(DataKind::Constant, page, page)?;
        let at = self.memory.data_start(bytes_of(run).start);
        let [before, after] = TRIED;
        // SAFETY: these pages were taken by this call and are writable.
        unsafe { at.cast::<[u8; GRANULE]>().write_volatile(before) };
        // SAFETY: as above. Nothing else is stored there.
        let closed = unsafe { self.close_data(run) };
        let os = self.memory.os();
        let write = |writer: KernelWriter| {
            let mut seen = [0; GRANULE];
            os.kernel_read(&writer, at, &mut seen).ok().filter(|()| seen == before)?;
            // SAFETY: a private page that was taken by this call.
            unsafe { os.kernel_write(&writer, at, &after) }.ok()
        };
        let written = closed.ok().and_then(|()| os.open_kernel_writer().ok()).and_then(write);
        // SAFETY: taken by this call, and readable. The read is volatile, because the kernel wrote
        // there.
        let seen = unsafe { at.cast::<[u8; GRANULE]>().read_volatile() };
        self.free_data([run]);
        Ok(if written.is_some() && seen == after { Way::Kernel } else { Way::Pages })
    }

    /// Takes granules for constants in read-only pages, which other constants share. Only for
    /// [`Way::Kernel`].
    pub(in crate::arena) fn take_shared(&self, len: u32, align: u32) -> Result<Run, Error> {
        self.memory.check_own("reserve data")?;
        let mut area = self.data_space()?;
        let Some(space) = area.as_mut() else { return Err(Error::out_of_memory()) };
        let run = self.take_or_reclaim(space, DataKind::Constant, len, align)?;
        let mut at = space.pages_ahead(run);
        // A page with a hole in this heap either contains constants and is read-only, or contains
        // nothing.
        while let Some(open) = space.read_only.next_run(at.clone(), false) {
            // SAFETY: pages of the area that contain nothing that has to be writable.
            if let Err(refused) = unsafe { self.close_pages(space, open.clone()) } {
                space.free(run);
                return Err(refused);
            }
            at.start = open.end;
        }
        space.touch(run);
        Ok(run)
    }

    /// Writes constants to their place through the kernel.
    ///
    /// # Safety
    /// - The run came from [`Core::take_shared`] and the caller owns it. Nobody reads it meanwhile.
    ///   There are no more bytes than the run has.
    pub(in crate::arena) unsafe fn write_shared(&self, run: Run, bytes: &[u8]) -> Result<(), Error> {
        debug_assert!(bytes.len() <= bytes_of(run).len());
        self.memory.check_own("write data")?;
        let at = self.memory.data_start(bytes_of(run).start);
        // Later constants take another way, because a sandbox that the process entered stays. A
        // refusal that passes has no such effect.
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
        // SAFETY: private pages of the area. The rest is passed on to the caller.
        unsafe { self.memory.os().kernel_write(writer, at, bytes) }.map_err(note)
    }

    /// Stores constants to whole pages that are open.
    ///
    /// # Safety
    /// - `at` is the start of writable granules that the caller owns, and they have room for the
    ///   bytes.
    pub(in crate::arena) unsafe fn store(at: NonNull<u8>, bytes: &[u8]) {
        // SAFETY: passed on to the caller.
        unsafe { at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) };
    }

    /// Makes pages read-only, whatever their protection was.
    ///
    /// # Safety
    /// - The pages contain nothing that has to be writable.
    unsafe fn close_pages(&self, space: &mut Space, pages: std::ops::Range<usize>) -> Result<(), Error> {
        space.writable.remove(pages.clone());
        // SAFETY: passed on to the caller.
        unsafe { self.memory.close_data(self.data_bytes(pages.clone()))? };
        space.read_only.insert(pages);
        Ok(())
    }
}
