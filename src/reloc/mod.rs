//! Relocations: what a code generator leaves open in its bytes, and how that is filled in. Plain
//! arithmetic on bytes, for all architectures on every one.
//!
//! A relocation is a *formula* ([`Formula`]), whose value goes into a *field*
//! ([`Field`](field::Field)) of one or two instructions, or a number. [`Reloc::spec`] is the one
//! table of both; [`field`](mod@field) puts values into fields.
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

/// How the value of a relocation comes about, in the terms of ELF: `S` is the address of the
/// target, `A` the addend, `P` the address of the place. `page(x)` is `x` without its low 12 bits.
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

/// What a relocation goes by way of, beside its formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// Nothing: it is the target itself.
    Itself,
    /// A stub, if the target is out of range: it is a branch that counts from so many bytes behind
    /// its place.
    Stub(i64),
    /// A cell that holds the address of the target; the addend belongs to the cell's address.
    Cell,
    /// A cell that holds the address of the target and the addend.
    CellOfSum,
    /// Another relocation, at the target, whose low 12 bits this one has.
    High,
}

/// The high part of an address that was put in. Its low part is linked to where the high part is.
pub(crate) struct HighPart {
    pub(crate) place: u64,
    pub(crate) value: i64,
}

/// Why a relocation cannot be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Misfit {
    /// The value does not fit into the field, and there is no stub or none is left.
    OutOfRange,
    /// The value is no multiple of what the field counts in.
    Misaligned,
    /// It is for another architecture than this one.
    OtherArchitecture,
    /// There is no stub left for the cell that holds the target's address.
    NoStub,
    /// A low part without its high part: nothing was linked at the address of the target.
    NoHighPart,
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OutOfRange => "it is out of range, and no stub is left",
            Self::Misaligned => "it is misaligned",
            Self::OtherArchitecture => "the relocation is for another architecture",
            Self::NoStub => "no stub is left to hold the address",
            Self::NoHighPart => "no high part was linked at the target",
        })
    }
}

impl Reloc {
    /// Bytes that it changes.
    pub(crate) fn len(self) -> usize {
        self.spec().field.len()
    }

    pub(crate) fn via(self) -> Via {
        self.spec().via
    }

    pub(crate) fn architecture(self) -> Architecture {
        self.spec().architecture
    }

    /// The value of the formula, with `sum` for `S + A`.
    pub(crate) fn value(self, sum: u64, place: u64) -> i64 {
        let page = |address: u64| address & !0xfff;
        (match self.spec().formula {
            Formula::Absolute => sum,
            Formula::Relative => sum.wrapping_sub(place),
            Formula::Pages => page(sum).wrapping_sub(page(place)),
            Formula::WithinPage => sum & 0xfff,
        }) as i64
    }

    /// Puts a value into the field at the start of `bytes`, of which there are enough. On an error
    /// nothing has changed.
    pub(crate) fn apply(self, bytes: &mut [u8], value: i64) -> Result<(), Misfit> {
        let Spec { field, .. } = self.spec();
        field.put(bytes, value)
    }
}

impl fmt::Display for Reloc {
    /// Its name in ELF.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.spec().name)
    }
}
