//! Branches out of the arena: if a direct branch may not reach its target, it is sent to a stub
//! behind the function's own code.
//!
//! A stub belongs to the function that uses it. It lies in the function's block and is freed with
//! it, so stubs need no counts and are not shared. Each far target costs the function a granule.
//! Two functions of a batch that call the same target have one stub each.

use crate::Error;
use crate::arena::batch::stubs::Stubs;
use crate::arena::batch::{Batch, Slot};
use crate::icache::stub;
use crate::units::{GRANULE, branch_reaches, round_up};

impl Batch {
    /// Adds a function as [`Batch::reserve`] does, with space for `stubs` stubs behind the `len`
    /// bytes of code: one for each target that may be out of reach of a direct branch.
    ///
    /// Stubs are a part of the function. They are freed with it, and count to its length, also in
    /// [`Batch::bytes_mut`]: write the first `len` bytes only. [`Batch::link`] uses them by itself.
    /// For code generators that take addresses there is [`Batch::branch_target`].
    ///
    /// A stub changes no register on x86, x86-64 and Arm. Elsewhere it changes the one that the
    /// calling convention leaves to such code: `x16` on AArch64, `t1` on RISC-V, `r1` on s390x.
    ///
    /// ```
    /// # #[cfg(all(target_arch = "x86_64", unix))] {
    /// use gaia_jit::{Reloc, Target};
    ///
    /// extern "C" fn seven() -> i32 {
    ///     7
    /// }
    ///
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// let caller = batch.reserve_with_stubs(5, 16, 1)?;
    /// batch.bytes_mut(caller)[..5].copy_from_slice(&[0xe9, 0, 0, 0, 0]); // jmp
    /// batch.link(caller, 1, Reloc::X86Call32, Target::Address(seven as *const u8), -4)?;
    /// let block = batch.publish()?.remove(caller.index());
    /// // SAFETY: the code takes nothing and returns a number.
    /// let call = unsafe { block.as_fn::<unsafe extern "C" fn() -> i32>() };
    /// // SAFETY: the block is alive.
    /// assert_eq!(unsafe { call() }, 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// As for [`Batch::push`].
    pub fn reserve_with_stubs(&mut self, len: usize, align: usize, stubs: usize) -> Result<Slot, Error> {
        if len == 0 || stubs == 0 {
            return self.reserve(len, align);
        }
        let first = round_up(len, GRANULE);
        let total = first.and_then(|first| first.checked_add(stubs.checked_mul(stub::LEN)?));
        let slot = self.reserve(total.unwrap_or(usize::MAX), align)?;
        let first = first.unwrap_or(len);
        self.stubs.push(Stubs { slot: slot.index(), first, capacity: stubs, targets: Vec::new() });
        Ok(slot)
    }

    /// Returns the address to which a direct branch in `slot` has to lead to arrive at `target`:
    /// the target itself if it is in reach of every byte of the slot, else a stub of the slot. The
    /// same target gets the same stub.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// let slot = batch.reserve_with_stubs(16, 16, 1)?;
    /// let far = batch.branch_target(slot, std::ptr::without_provenance(16))?;
    /// let own = batch.bytes_mut(slot).len();
    /// // Either the target, or the stub behind the 16 bytes of code.
    /// assert!(far.addr() == 16 || far.addr() - batch.address(slot).addr() < own);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// - [`Error::NoStub`] if all stubs of the slot have other targets, or if the slot was reserved
    ///   without stubs.
    /// - [`Error::OtherBatch`] if it is a slot of another batch.
    pub fn branch_target(&mut self, slot: Slot, target: *const u8) -> Result<*const u8, Error> {
        let start = self.address(slot);
        let end = start.wrapping_add(self.bytes_mut(slot).len());
        if !start.is_null() && [start, end].into_iter().all(|from| branch_reaches(from.addr(), target.addr())) {
            return Ok(target);
        }
        self.stub_to(slot, target)
    }

    /// Returns a stub of this slot that leads to `target`. The same target gets the same stub.
    pub(crate) fn stub_to(&mut self, slot: Slot, target: *const u8) -> Result<*const u8, Error> {
        let stub = self.next_stub_to(slot, target)?;
        let own = self.stubs.binary_search_by_key(&slot.index(), |stubs| stubs.slot).ok();
        let Some(stubs) = own.and_then(|own| self.stubs.get_mut(own)) else { return Ok(stub) };
        if !stubs.targets.contains(&target.addr()) {
            stubs.targets.push(target.addr());
            let offset = stub.addr() - self.address(slot).addr();
            if let Some(place) = self.bytes_mut(slot).get_mut(offset..offset + stub::LEN) {
                place.copy_from_slice(&stub::to(stub, target));
            }
        }
        Ok(stub)
    }

    /// Returns the address of the stub that [`Batch::stub_to`] returns or would make. Nothing is
    /// changed.
    pub(crate) fn next_stub_to(&self, slot: Slot, target: *const u8) -> Result<*const u8, Error> {
        let start = self.address(slot);
        if start.is_null() {
            return Err(Error::OtherBatch { slot: slot.index() });
        }
        // Slots are made in order, and so are their stubs.
        let own = self.stubs.binary_search_by_key(&slot.index(), |stubs| stubs.slot).ok();
        let none = Error::NoStub { slot: slot.index(), stubs: 0 };
        let Some(stubs) = own.and_then(|own| self.stubs.get(own)) else { return Err(none) };
        let known = stubs.targets.iter().position(|known| *known == target.addr());
        let index = known.unwrap_or(stubs.targets.len());
        if index >= stubs.capacity {
            return Err(Error::NoStub { slot: slot.index(), stubs: stubs.capacity });
        }
        Ok(start.wrapping_add(stubs.first + index * stub::LEN))
    }
}
