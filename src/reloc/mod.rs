//! Relocations: places that a code generator leaves open in its bytes, and how they are filled in.
//! This is plain arithmetic on bytes, for all architectures on each of them.
//!
//! ```text
//! S: target   A: addend   P: address of the place
//!        |
//!     formula ---> value ---> field: bits of one or two instructions, or a number
//! ```
//!
//! A relocation has a *formula* ([`Formula`]) and a *field* ([`Field`](field::Field)).
//! [`Reloc::spec`] is the one table of both. [`field`](mod@field) puts values into fields.
#![forbid(unsafe_code)]

mod field;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;

use std::fmt;

pub(crate) use field::low_12_of_high;
pub(crate) use table::Architecture;
pub use table::Reloc;
use table::Spec;

/// The formula of a relocation's value, in the terms of ELF: `S` is the address of the target, `A`
/// the addend, `P` the address of the place. `page(x)` is `x` without its low 12 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Formula {
    /// `S + A`.
    Absolute,
    /// `S + A - P`.
    Relative,
    /// `page(S + A) - page(P)`.
    Pages,
    /// The low 12 bits of `S + A`.
    WithinPage,
}

/// The thing beside its formula that a relocation needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Nothing. The value is that of the target itself.
    Itself,
    /// A stub, if the target is out of range. The relocation is a branch, which counts from this
    /// number of bytes behind its place.
    Stub(i64),
    /// A cell that contains the address of the target. The addend belongs to the address of the
    /// cell.
    Cell,
    /// A cell that contains the address of the target plus the addend.
    CellOfSum,
    /// Another relocation, at the target. This one has the low 12 bits of its value.
    High,
}

/// The high part of an address, which was linked. The target of its low part is the place of the
/// high part.
pub(crate) struct HighPart {
    pub(crate) place: u64,
    pub(crate) value: i64,
}

/// The reason why a relocation cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misfit {
    /// The value does not fit into the field. For a branch or a call, also: no stub of the slot is
    /// left. Reserve the slot with more stubs
    /// ([`Batch::reserve_with_stubs`](crate::Batch::reserve_with_stubs)), or build the arena
    /// [`near`](crate::ArenaBuilder::near) its targets.
    OutOfRange,
    /// The value is no multiple of the field's unit.
    Misaligned,
    /// The kind is for another architecture than this one.
    OtherArchitecture,
    /// No stub is left for the cell that contains the target's address.
    NoStub,
    /// A low part without its high part: nothing was linked at the address of the target.
    NoHighPart,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => {
                "it is out of range (for a call: reserve the slot with more stubs, or build the arena near its targets)"
            }
            Self::Misaligned => "it is misaligned",
            Self::OtherArchitecture => "the relocation is for another architecture",
            Self::NoStub => "no stub is left to hold the address: reserve the slot with more stubs",
            Self::NoHighPart => "no high part was linked at the target",
        })
    }
}

impl Reloc {
    /// Returns the number of bytes that it changes.
    pub(crate) fn len(self) -> usize {
        self.spec().field.len()
    }

    pub(crate) fn via(self) -> Via {
        self.spec().via
    }

    pub(crate) fn architecture(self) -> Architecture {
        self.spec().architecture
    }

    /// Returns the value of the formula, with `sum` for `S + A`.
    pub(crate) fn value(self, sum: u64, place: u64) -> i64 {
        let page = |address: u64| address & !0xfff;
        (match self.spec().formula {
            Formula::Absolute => sum,
            Formula::Relative => sum.wrapping_sub(place),
            Formula::Pages => page(sum).wrapping_sub(page(place)),
            Formula::WithinPage => sum & 0xfff,
        }) as i64
    }

    /// Puts a value into the field at the start of `bytes`, which are long enough. After an error
    /// nothing has changed.
    pub(crate) fn apply(self, bytes: &mut [u8], value: i64) -> Result<(), Misfit> {
        let Spec { field, .. } = self.spec();
        field.put(bytes, value)
    }
}

impl fmt::Display for Reloc {
    /// Prints the name in ELF.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec().name)
    }
}
