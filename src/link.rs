//! Linking: the relocations that a code generator emits, applied in a batch whose addresses are
//! known.
//!
//! [`Reloc`] says what a kind of relocation does to bytes. Here is what it takes of the batch: the
//! addresses of targets, and stubs, for branches to what is out of reach and for code that loads
//! the address of its target from a cell. A stub contains the address it leads to, so it serves as
//! such a cell too.
#![forbid(unsafe_code)]

use crate::reloc::{HighPart, Misfit, Reloc, Via, low_12_of_high};
use crate::{Batch, CodeBlock, DataBlock, DataSlot, Error, Slot};

/// Where the address of a target stands in a stub, on the architectures that have relocations here.
const CELL: usize = 16;

/// What a relocation refers to.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Target<'a> {
    /// A function of the same batch.
    Slot(Slot),
    /// Data of the same batch.
    DataSlot(DataSlot),
    /// A function that was published before, in this arena or in another.
    Block(&'a CodeBlock),
    /// Data that was placed before.
    Data(&'a DataBlock),
    /// Anything else: a function of the program, or a variable.
    Address(*const u8),
}

impl Batch {
    /// Applies a relocation: puts the target into the bytes of `slot` at `offset`, as `kind` says.
    /// The bytes have to be in place before, because only a part of an instruction is replaced.
    ///
    /// The formulas are those of ELF, with the addend in `addend` ("RELA"): a call of x86-64, which
    /// counts from behind its four bytes, has an addend of -4. Where a branch does not reach its
    /// target it goes through a stub of the slot's own, if the slot was [reserved with
    /// stubs](Batch::reserve_with_stubs) and one is left; all branches to one target share a stub.
    /// Kinds that load the target's address from a cell always take a stub, which has that address
    /// in it.
    ///
    /// A target is not kept alive by this. That all a function reaches is alive belongs to the
    /// conditions of [`CodeBlock::as_fn`].
    ///
    /// ```
    /// # #[cfg(all(target_arch = "x86_64", unix))] {
    /// use gaia_jit::{CodeArena, Reloc, Target};
    ///
    /// extern "C" fn seven() -> i32 {
    ///     7
    /// }
    ///
    /// let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let mut batch = arena.batch();
    /// // One stub, as the arena may be too far from the program.
    /// let out = batch.reserve_with_stubs(5, 16, 1)?;
    /// batch.bytes_mut(out)[..5].copy_from_slice(&[0xe9, 0, 0, 0, 0]); // jmp
    /// batch.link(out, 1, Reloc::X86Call32, Target::Address(seven as *const u8), -4)?;
    /// let entry = batch.push(&[0xe9, 0, 0, 0, 0])?;
    /// batch.link(entry, 1, Reloc::X86Call32, Target::Slot(out), -4)?;
    /// let blocks = batch.publish()?;
    /// // SAFETY: the code takes nothing and returns a number.
    /// let call = unsafe { blocks[entry.index()].typed::<extern "C" fn() -> i32>() };
    /// assert_eq!(call.call(), 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Errors
    /// The bytes are then as they were.
    ///
    /// - [`Error::Link`] with the reason ([`Misfit`]) if the target is out of range and there is no
    ///   stub left, or misaligned; if the kind is for another architecture; or if a low part has no
    ///   high part.
    /// - [`Error::PastCapacity`] if the place does not lie in the slot.
    /// - [`Error::OtherBatch`] if the slot or the target is of another batch.
    pub fn link(
        &mut self,
        slot: Slot,
        offset: usize,
        kind: Reloc,
        target: Target<'_>,
        addend: i64,
    ) -> Result<(), Error> {
        if self.address(slot).is_null() {
            return Err(Error::OtherBatch { slot: slot.index() });
        }
        let target = self.resolve(target)?;
        let capacity = self.bytes_mut(slot).len();
        if offset.checked_add(kind.len()).is_none_or(|end| end > capacity) {
            return Err(Error::PastCapacity { offset, len: kind.len(), capacity });
        }
        let place = (self.address(slot).addr() + offset) as u64;
        let sum = (target.addr() as u64).wrapping_add_signed(addend);
        let misfit = |why| Error::Link { slot: slot.index(), offset, kind, distance: kind.value(sum, place), why };
        if !kind.architecture().is_here() {
            return Err(misfit(Misfit::OtherArchitecture));
        }
        // What a stub is to lead to. It is taken once its address has found a place in the
        // instruction.
        let mut to = None;
        let value = match kind.via() {
            Via::Itself => kind.value(sum, place),
            Via::Stub(bias) => match self.put(slot, offset, kind, kind.value(sum, place)) {
                Err(Misfit::OutOfRange) => {
                    // Where the branch would arrive.
                    let arrival = sum.wrapping_add_signed(bias);
                    let stub = self.next_stub_to(slot, *to.insert(target.with_addr(arrival as usize)));
                    let stub = stub.map_err(|_| misfit(Misfit::OutOfRange))?;
                    kind.value((stub.addr() as u64).wrapping_add_signed(-bias), place)
                }
                done => return done.map_err(misfit),
            },
            Via::Cell => {
                let stub = self.next_stub_to(slot, *to.insert(target)).map_err(|_| misfit(Misfit::NoStub))?;
                kind.value(((stub.addr() + CELL) as u64).wrapping_add_signed(addend), place)
            }
            Via::CellOfSum => {
                let stub = self.next_stub_to(slot, *to.insert(target.with_addr(sum as usize)));
                let stub = stub.map_err(|_| misfit(Misfit::NoStub))?;
                kind.value((stub.addr() + CELL) as u64, place)
            }
            Via::High => {
                let high = self.highs.iter().rev().find(|high| high.place == sum);
                low_12_of_high(high.ok_or_else(|| misfit(Misfit::NoHighPart))?.value)
            }
        };
        self.put(slot, offset, kind, value).map_err(misfit)?;
        if let Some(to) = to {
            self.stub_to(slot, to)?;
        }
        if matches!(kind, Reloc::RiscvPcrelHi20 | Reloc::RiscvGotHi20) {
            self.highs.push(HighPart { place, value });
        }
        Ok(())
    }

    fn put(&mut self, slot: Slot, offset: usize, kind: Reloc, value: i64) -> Result<(), Misfit> {
        // That it lies in the slot was seen before.
        self.bytes_mut(slot).get_mut(offset..).map_or(Ok(()), |bytes| kind.apply(bytes, value))
    }

    /// The address of a target; `None` if it is of another batch.
    fn resolve(&self, target: Target<'_>) -> Result<*const u8, Error> {
        let here = |address: *const u8, slot| match address.is_null() {
            true => Err(Error::OtherBatch { slot }),
            false => Ok(address),
        };
        match target {
            Target::Slot(slot) => here(self.address(slot), slot.index()),
            Target::DataSlot(slot) => here(self.data_address(slot), slot.index()),
            Target::Block(block) => Ok(block.as_ptr()),
            Target::Data(data) => Ok(data.as_ptr()),
            Target::Address(address) => Ok(address),
        }
    }
}
