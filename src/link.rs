//! Linking: the relocations of a code generator are applied in a batch, because there the addresses
//! are known.
//!
//! [`Reloc`] defines the change of the bytes for each kind of relocation. This file adds what a
//! batch contributes: the addresses of targets, and stubs. A stub serves a branch to a target out
//! of reach. It also serves code that loads the address of its target from a cell, because a stub
//! contains the address that it leads to.
//!
//! ```text
//! relocation: offset, kind, target, addend
//!    |  target -> address (resolve)
//!    v
//! value = the kind's formula --- fits ---> bytes of the slot
//!                            `-- does not fit, and is a branch --> stub of the slot --> bytes of the slot
//! ```
#![forbid(unsafe_code)]

use crate::reloc::{HighPart, Misfit, Reloc, Via, low_12_of_high};
use crate::{Batch, CodeBlock, DataBlock, DataSlot, Error, Slot};

/// The offset of the target's address in a stub, on the architectures that have relocations here.
const CELL: usize = 16;

/// The target of a relocation.
///
/// ```
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// use gaia_jit::{Reloc, Target};
///
/// let table = arena.data(8, 8, gaia_jit::DataAccess::ReadOnly, |_, bytes| bytes[0] = 7)?;
/// let mut batch = arena.batch();
/// let slot = batch.reserve(16, 16)?;
/// # #[cfg(target_arch = "x86_64")]
/// batch.link(slot, 8, Reloc::X86Abs64, Target::Data(&table), 0)?;
/// let block = batch.publish()?.remove(slot.index());
/// # #[cfg(target_arch = "x86_64")]
/// assert_eq!(block.as_bytes()[8..], table.as_ptr().addr().to_le_bytes());
/// # Ok::<(), gaia_jit::Error>(())
/// ```
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
    /// Any other address: that of a function of the program, or of a variable.
    Address(*const u8),
}

impl Batch {
    /// Applies a relocation: writes the target into the bytes of `slot` at `offset`, as `kind`
    /// defines. Write the code first, because a relocation replaces only a part of an instruction.
    ///
    /// The formulas are those of ELF, with the addend in `addend` ("RELA"). For example, a call of
    /// x86-64 counts from the end of its four bytes, so its addend is -4.
    ///
    /// A branch that does not reach its target is sent through a stub of the slot, if the slot was
    /// [reserved with stubs](Batch::reserve_with_stubs) and one is left. All branches of the slot
    /// to one target share a stub. Kinds that load the target's address from a cell always take a
    /// stub, because it contains that address.
    ///
    /// This does not keep the target alive. It has to live as long as the code is called: see
    /// [`CodeBlock::typed`].
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
    /// After an error the bytes are as they were before the call.
    ///
    /// - [`Error::Link`] with a [`Misfit`] as the reason: if the target is out of range and no stub
    ///   is left, or misaligned; if the kind is for another architecture; or if a low part has no
    ///   high part.
    /// - [`Error::PastCapacity`] if the relocation does not lie inside the slot.
    /// - [`Error::OtherBatch`] if the slot or the target belongs to another batch.
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
        // The target of a stub. The stub is taken after its address was found to fit into the
        // instruction.
        let mut to = None;
        let value = match kind.via() {
            Via::Itself => kind.value(sum, place),
            Via::Stub(bias) => match self.put(slot, offset, kind, kind.value(sum, place)) {
                Err(Misfit::OutOfRange) => {
                    // The address at which the branch would arrive.
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
        // It was checked before that the place lies in the slot.
        self.bytes_mut(slot).get_mut(offset..).map_or(Ok(()), |bytes| kind.apply(bytes, value))
    }

    /// Returns the address of a target, or `None` if it belongs to another batch.
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
