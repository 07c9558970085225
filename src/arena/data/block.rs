//! A block of data beside code, and the value that owns it.
//!
//! A [`DataBlock`] keeps its arena alive by a handle. It is freed like a block of code: its drop
//! hands the granules to the data area, which frees them when the guards of that moment have ended.
//!
//! There are two kinds. Writable data is filled in its place. Constants are filled in ordinary
//! memory and then written to pages that are read-only for everybody (`constants`).
//!
//! # Locks
//!
//! A drop and a placement take the lock of the data area.

use std::fmt;
use std::panic::{RefUnwindSafe, UnwindSafe};
use std::ptr::NonNull;

use super::{DataKind, Way};
use crate::Error;
use crate::arena::CodeArena;
use crate::arena::core::{Core, bytes_of};
use crate::arena::handle::Handle;
use crate::space::Run;
use crate::sync::Arc;
use crate::units::GRANULE;

/// The access to data after it was placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum DataAccess {
    /// Data that is only read. No thread can write to it after it was placed.
    ///
    /// Blocks share pages if the kernel can write to read-only pages (`/proc/self/mem`: on Linux,
    /// unless it is refused). A page with constants is never made writable. Otherwise each block
    /// takes whole pages, and the constants of a batch together take whole pages. Over
    /// [`Given`](crate::WxMode::Given) memory constants stay writable.
    ReadOnly,
    /// Data that is read and written, by the program and by code. Blocks share pages.
    ReadWrite,
}

/// Data in reach of an arena's code. It is never executable, and its drop frees it as the drop of a
/// block does. Made by [`CodeArena::data`] or in a [`Batch`](crate::Batch::data).
///
/// Code may still use the data when it is dropped. So its space is freed when every guard that was
/// taken before the drop has ended. Data keeps the arena alive, as a handle does.
///
/// ```
/// use gaia_jit::{CodeArena, DataAccess};
///
/// let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let seven = arena.data(8, 8, DataAccess::ReadOnly, |_, bytes| bytes[0] = 7)?;
/// // SAFETY: eight readable bytes of a live block.
/// assert_eq!(unsafe { *seven.as_ptr() }, 7);
/// # Ok::<(), gaia_jit::Error>(())
/// ```
///
/// # Fork
/// In a forked child a drop changes nothing.
pub struct DataBlock {
    core: Arc<Handle>,
    run: Run,
    len: usize,
    access: DataAccess,
}

// As for `CodeBlock`.
impl UnwindSafe for DataBlock {}
impl RefUnwindSafe for DataBlock {}

impl CodeArena {
    /// Places data in reach of the arena's code, by references relative to the instruction. `fill`
    /// gets the final address and the bytes to write. The bytes are zeros at first. They need not
    /// be at the final address yet.
    ///
    /// The data lies in the arena's data area ([`ArenaBuilder::data`](crate::ArenaBuilder::data)).
    /// It takes a multiple of 16 bytes.
    ///
    /// ```
    /// # #[cfg(target_arch = "x86_64")] {
    /// use gaia_jit::{CodeArena, DataAccess, Reserve};
    ///
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let table = arena.data(8, 8, DataAccess::ReadOnly, |_, bytes| {
    ///     bytes.copy_from_slice(&7_u64.to_le_bytes());
    /// })?;
    /// let block = arena.publish_with(Reserve::new(8), |address, bytes| {
    ///     let distance = (table.as_ptr() as usize).wrapping_sub(address as usize + 7) as u32;
    ///     bytes[..3].copy_from_slice(&[0x48, 0x8b, 0x05]); // mov rax, [rip + distance]
    ///     bytes[3..7].copy_from_slice(&distance.to_le_bytes());
    ///     bytes[7] = 0xc3; // ret
    ///     Ok(8)
    /// })?;
    /// // SAFETY: the code takes nothing and returns a number; `table` lives.
    /// let seven = unsafe { block.typed::<extern "C" fn() -> u64>() };
    /// assert_eq!(seven.call(), 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// After an error, or if `fill` panics, the space is free again.
    ///
    /// - [`Error::DataFull`] if no hole is large enough, or if the arena has no data area.
    /// - [`Error::ZeroSize`] if `len` is 0.
    /// - [`Error::TooLarge`] if the data is larger than the data area.
    /// - [`Error::BadAlignment`] if the alignment is no power of two, or above that of the area (64
    ///   KiB).
    /// - [`Error::OperatingSystem`] if the system refuses memory, or refuses to protect it.
    /// - [`Error::Forked`] in a forked child.
    pub fn data(
        &self,
        len: usize,
        align: usize,
        access: DataAccess,
        fill: impl FnOnce(*const u8, &mut [u8]),
    ) -> Result<DataBlock, Error> {
        let core: &Core = &self.handle;
        let (granules, granules_align) = (core.data_granules(len)?, core.data_align(align)?);
        if access == DataAccess::ReadWrite {
            let run = core.take_data(DataKind::Writable, granules, granules_align)?;
            let block = DataBlock::new(&self.handle, run, len, access);
            block.fill_in_place(fill);
            return Ok(block);
        }
        match core.constants_way()? {
            Way::Stores => {
                let run = core.take_data(DataKind::Writable, granules, granules_align)?;
                let block = DataBlock::new(&self.handle, run, len, access);
                block.fill_in_place(fill);
                Ok(block)
            }
            Way::Kernel => {
                let mut bytes = zeros(granules)?;
                let run = core.take_shared(granules, granules_align)?;
                let block = DataBlock::new(&self.handle, run, len, access);
                fill(block.as_ptr(), &mut bytes[..len]);
                // SAFETY: the run was taken just now, and only `fill` knows its address.
                unsafe { core.write_shared(run, &bytes)? };
                Ok(block)
            }
            Way::Pages => {
                let mut bytes = zeros(granules)?;
                let mut pages = self.data_pages(DataKind::Constant);
                let at = pages.reserve(len, align)?;
                fill(at.as_ptr(), &mut bytes[..len]);
                // SAFETY: the granules were reserved for this number of bytes, in pages that are
                // writable.
                unsafe { Core::store(at, &bytes) };
                pages.make_read_only()?;
                let run = pages.run_at(at, granules);
                pages.give_up_used();
                Ok(DataBlock::new(&self.handle, run, len, access))
            }
        }
    }
}

/// Returns zeros for the bytes of `granules` granules.
pub(in crate::arena) fn zeros(granules: u32) -> Result<Vec<u8>, Error> {
    let (mut bytes, len) = (Vec::new(), granules as usize * GRANULE);
    bytes.try_reserve_exact(len).map_err(|_| Error::out_of_memory())?;
    bytes.resize(len, 0);
    Ok(bytes)
}

impl DataBlock {
    /// Makes a block that owns granules that were taken.
    pub(in crate::arena) fn new(handle: &Arc<Handle>, run: Run, len: usize, access: DataAccess) -> Self {
        handle.count_data();
        Self { core: Arc::clone(handle), run, len, access }
    }

    pub(in crate::arena) fn start(&self) -> NonNull<u8> {
        self.core.memory.data_start(bytes_of(self.run).start)
    }

    /// Returns [`Error::Forked`] in a forked child.
    pub(crate) fn check_own(&self, what: &'static str) -> Result<(), Error> {
        self.core.memory.check_own(what)
    }

    /// Returns the granules of the block.
    pub(in crate::arena) fn run(&self) -> Run {
        self.run
    }

    /// Returns the number of bytes that its drop frees.
    #[cfg(all(feature = "cache", not(loom)))]
    pub(crate) fn reserved(&self) -> usize {
        bytes_of(self.run).len()
    }

    /// Lets the caller write to writable memory, in its place.
    pub(in crate::arena) fn fill_in_place(&self, fill: impl FnOnce(*const u8, &mut [u8])) {
        let start = self.start();
        // SAFETY: the granules of this block, in pages that are writable.
        unsafe { start.write_bytes(0, bytes_of(self.run).len()) };
        // SAFETY: as above. They were initialised just now, and nobody else has the address yet.
        fill(start.as_ptr(), unsafe { std::slice::from_raw_parts_mut(start.as_ptr(), self.len) });
    }

    /// Returns the address of the first byte.
    pub fn as_ptr(&self) -> *const u8 {
        self.start().as_ptr()
    }

    /// Returns the address of the first byte, to be written to. It is `None` for constants.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, DataAccess};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let counter = arena.data(8, 8, DataAccess::ReadWrite, |_, _| {})?;
    /// let counter = counter.as_mut_ptr().unwrap().cast::<u64>();
    /// // SAFETY: eight bytes of ours, aligned, which no other thread uses.
    /// unsafe { *counter += 1 };
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn as_mut_ptr(&self) -> Option<*mut u8> {
        (self.access == DataAccess::ReadWrite).then(|| self.start().as_ptr())
    }

    /// Returns the number of bytes that were asked for.
    #[allow(clippy::len_without_is_empty, reason = "no block is empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Returns the access that the data was placed for.
    pub fn access(&self) -> DataAccess {
        self.access
    }
}

impl Drop for DataBlock {
    fn drop(&mut self) {
        // In a forked child a lock may be held for ever. The inherited memory stays mapped.
        if self.core.memory.is_own() {
            self.core.retire_data(self.run);
        }
    }
}

impl fmt::Debug for DataBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DataBlock")
            .field("start", &self.as_ptr())
            .field("len", &self.len)
            .field("access", &self.access)
            .finish()
    }
}
