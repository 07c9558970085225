//! Building an arena from its settings.
//!
//! 1. The sizes are rounded to pages and checked: code within the range of a direct branch, data
//!    within the range of code.
//! 2. Settings that need an ability of the system or the processor are checked: `serialize_cores`,
//!    `landing_pads`.
//! 3. The memory is built by `modes`, with the first mode of the list that the system allows. The
//!    mode is tried out on the first page.
//! 4. The tables are made, and the core with its heaps. Observers learn of the reservation.
//!
//! After an error of a later step, what the earlier steps made is released.

use std::ffi::CString;

use super::ArenaBuilder;
use crate::Error;
use crate::arena::core::Core;
use crate::arena::events::kept::Kept;
use crate::arena::events::observers::Observers;
use crate::arena::{CodeArena, WxMode};
use crate::icache;
use crate::modes::{CodeMemory, GivenMemory, Taken};
use crate::region::Plan;
use crate::units::{BRANCH_REACH, DATA_GAP, DATA_REACH, DEFAULT_CAPACITY, round_up};

impl ArenaBuilder {
    /// Reserves the address space, tries the mode out, and returns the arena.
    ///
    /// ```
    /// # use gaia_jit::{CodeArena, Error};
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// assert!(matches!(CodeArena::builder().capacity(0).build(), Err(Error::ZeroSize)));
    /// assert!(matches!(CodeArena::builder().capacity(usize::MAX).build(), Err(Error::TooLarge { .. })));
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::ZeroSize`] if the capacity is 0.
    /// - [`Error::TooLarge`] if the capacity is above the range of a direct branch, or if the data
    ///   is more than code can reach beside that capacity.
    /// - [`Error::Unsupported`] if the system or its configuration refuses the mode, or every mode
    ///   of the list, or a setting. Also if the list of modes is empty.
    /// - [`Error::OutOfReach`] if no free address space is in reach of the address given to
    ///   [`near`](Self::near).
    /// - [`Error::OperatingSystem`] if the system refuses anything else, for example memory.
    pub fn build(self) -> Result<CodeArena, Error> {
        icache::check()?;
        let most = if self.near.is_some() { BRANCH_REACH / 2 } else { BRANCH_REACH };
        let capacity = self.capacity.unwrap_or(DEFAULT_CAPACITY.min(most));
        let too_large = Error::TooLarge { asked: capacity, limit: BRANCH_REACH };
        let len = match round_up(capacity, self.os.page_size()) {
            Some(0) => return Err(Error::ZeroSize),
            Some(len) if len <= BRANCH_REACH => len,
            _ => return Err(too_large),
        };
        let page = self.os.page_size();
        let most = DATA_REACH.saturating_sub(len).saturating_sub(DATA_GAP) / page * page;
        let data = match self.data {
            Some(asked) => round_up(asked, page).filter(|data| *data == 0 || *data <= most),
            None => round_up(len / 8, page).map(|data| data.min(most)),
        };
        let data = data.ok_or(Error::TooLarge { asked: self.data.unwrap_or(0), limit: most })?;
        if self.serialize_cores {
            icache::serialize_cores()?;
        }
        if self.landing_pads {
            icache::check_landing_pads()?;
        }
        let plan = Plan {
            len,
            data,
            near: self.near,
            huge_pages: self.huge_pages,
            landing_pads: self.landing_pads,
            freeze: self.seal,
            poison: self.poison,
            name: self.name.as_deref().map(mapping_name),
        };
        let (mut memory, refused) = self.first_mode(&plan)?;
        memory.set_serializes(self.serialize_cores);
        let keep_free = if memory.can_shrink() { self.keep_free } else { usize::MAX };
        let mut core = Core::new(memory, self.poison, keep_free, Observers::new(self.observers))?;
        core.refused = refused;
        core.kept = self.keep_notes.then(Kept::new);
        Ok(CodeArena::from_core(core))
    }

    /// Builds an arena over memory that the embedder mapped, in [`WxMode::Given`]. It is for
    /// systems on which only the embedder may map code.
    ///
    /// The arena makes no system call that names the memory. It flushes instruction caches and
    /// synchronises other cores, as in every mode. Of the settings, [`poison`](Self::poison),
    /// [`observer`](Self::observer), [`keep_notes`](Self::keep_notes) and
    /// [`serialize_cores`](Self::serialize_cores) count. `keep_free` has no effect.
    ///
    /// ```
    /// # #[cfg(all(target_os = "linux", target_arch = "x86_64"))] {
    /// use std::ptr::{NonNull, null_mut};
    ///
    /// use gaia_jit::{CodeArena, GivenMemory, GivenWriter};
    ///
    /// const LEN: usize = 1 << 20;
    /// // SAFETY: the name is a C string.
    /// let file = unsafe { libc::memfd_create(c"code".as_ptr(), libc::MFD_CLOEXEC) };
    /// // SAFETY: takes numbers only.
    /// assert_eq!(unsafe { libc::ftruncate(file, LEN as i64) }, 0);
    /// let map = |access| {
    ///     // SAFETY: a new mapping, wherever the system likes.
    ///     let start = unsafe { libc::mmap(null_mut(), LEN, access, libc::MAP_SHARED, file, 0) };
    ///     assert_ne!(start, libc::MAP_FAILED);
    ///     NonNull::new(start.cast::<u8>()).unwrap()
    /// };
    /// let (executable, alias) = (map(libc::PROT_READ | libc::PROT_EXEC), map(libc::PROT_READ | libc::PROT_WRITE));
    /// let mappings = [executable, alias].map(|start| start.as_ptr() as usize);
    /// let memory = GivenMemory {
    ///     executable: NonNull::slice_from_raw_parts(executable, LEN),
    ///     writer: GivenWriter::Alias(alias),
    ///     data: None,
    ///     release: Some(Box::new(move || {
    ///         for start in mappings {
    ///             // SAFETY: mapped above, and used by nobody any more.
    ///             unsafe { libc::munmap(start as *mut _, LEN) };
    ///         }
    ///     })),
    /// };
    /// // SAFETY: two views of the same memory, which nobody else knows and which stay until `release` is called.
    /// let arena = unsafe { CodeArena::builder().build_over(memory)? };
    /// assert_eq!(arena.capacity(), LEN);
    /// let block = arena.publish(&[0xb8, 7, 0, 0, 0, 0xc3])?; // mov eax, 7; ret
    /// // SAFETY: the code takes nothing and returns a number.
    /// let seven = unsafe { block.as_fn::<unsafe extern "C" fn() -> i32>() };
    /// // SAFETY: the block is alive.
    /// assert_eq!(unsafe { seven() }, 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// Whatever the error, [`GivenMemory::release`] was called when this returns.
    ///
    /// - [`Error::Unsupported`] for a setting that the owner of the memory decides:
    ///   `capacity`, `data`, `mode`, `modes`, `near`, `seal`, `name`, `huge_pages`, `landing_pads`.
    /// - [`Error::Unsupported`] if an alias or the data lies in the executable memory, if the data
    ///   is out of reach or contains no whole page, or if written bytes are not the bytes that run.
    /// - [`Error::ZeroSize`] if the memory contains no whole granule.
    /// - [`Error::TooLarge`] if the memory is larger than the range of a direct branch.
    /// - [`Error::OperatingSystem`] if the function that writes fails.
    ///
    /// # Safety
    /// Until `release` is called, or for ever if there is no `release`:
    /// - The executable memory is mapped, readable and executable. Nobody else writes there. Nobody
    ///   else runs or reads anything there that the arena did not publish. Nobody changes the
    ///   mapping or the protection.
    /// - An alias is mapped, readable and writable for the same number of bytes, and nobody else
    ///   uses it. Bytes that are stored there can be read at the executable address at once. A
    ///   forked child that inherits the alias writes to no slice of [`Batch::bytes_mut`][bytes_mut]
    ///   that existed before the fork.
    /// - A function that writes may be called on any thread. When it returns `Ok`, the bytes can be
    ///   read at the executable address, and it has written nothing else there.
    /// - Data is mapped, readable and writable, and nobody else uses it.
    ///
    /// [bytes_mut]: crate::Batch::bytes_mut
    pub unsafe fn build_over(self, memory: GivenMemory) -> Result<CodeArena, Error> {
        // From here on its `release` is called, whatever fails.
        let memory = Taken::new(memory);
        self.check_given()?;
        icache::check()?;
        if self.serialize_cores {
            icache::serialize_cores()?;
        }
        // SAFETY: passed on to the caller.
        let mut memory = unsafe { CodeMemory::over(self.os, memory)? };
        memory.set_serializes(self.serialize_cores);
        memory.set_poisons(self.poison);
        let mut core = Core::new(memory, self.poison, usize::MAX, Observers::new(self.observers))?;
        core.kept = self.keep_notes.then(Kept::new);
        Ok(CodeArena::from_core(core))
    }

    /// Checks that no setting is set that the owner of the memory decides.
    fn check_given(&self) -> Result<(), Error> {
        let set = [
            ("capacity", self.capacity.is_some()),
            ("data", self.data.is_some()),
            ("mode", self.modes.is_some()),
            ("huge_pages", self.huge_pages),
            ("seal", self.seal),
            ("landing_pads", self.landing_pads),
            ("near", self.near.is_some()),
            ("name", self.name.is_some()),
        ];
        match set.into_iter().find(|(_, is_set)| *is_set) {
            Some((what, _)) => Err(Error::unsupported(
                what,
                "the memory is given: its owner decides on that, so leave the setting out",
            )),
            None => Ok(()),
        }
    }

    /// Returns memory in the first mode that the system allows, and the reasons why it refuses the
    /// modes before it.
    fn first_mode(&self, plan: &Plan) -> Result<(CodeMemory, Vec<(WxMode, Error)>), Error> {
        let mut refused = Vec::new();
        for &mode in self.modes.as_deref().unwrap_or(&[WxMode::Flip]) {
            match CodeMemory::build(self.os, mode, plan) {
                Ok(memory) => return Ok((memory, refused)),
                Err(why @ Error::Unsupported { .. }) => refused.push((mode, why)),
                Err(other) => return Err(other),
            }
        }
        match refused.len() {
            0 => Err(Error::unsupported("building an arena", "the list of modes is empty: name one at least")),
            1 => Err(refused.remove(0).1),
            _ => {
                let each: Vec<String> = refused.iter().map(|(mode, why)| format!("{mode:?}: {why}")).collect();
                Err(Error::unsupported("every mode of the list", each.join("; ")))
            }
        }
    }
}

/// Returns a name in the form that the kernel takes (`prctl(2)`, `PR_SET_VMA_ANON_NAME`).
fn mapping_name(name: &str) -> CString {
    let allowed = |c: char| (c.is_ascii_graphic() || c == ' ') && !matches!(c, '\\' | '`' | '$' | '[' | ']');
    let kept: String = name.chars().take(64).map(|c| if allowed(c) { c } else { '_' }).collect();
    CString::new(kept).unwrap_or_default()
}
