//! What is published: bytes, and what goes with them.
#![forbid(unsafe_code)]

use crate::units::GRANULE;

/// Machine code to publish, with its alignment, tag and name.
///
/// A byte slice converts, so that `arena.publish(&bytes[..])` works.
///
/// ```
/// use gaia_jit::{Code, CodeArena};
///
/// let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let block = arena.publish(Code::new(&[0xc3]).align(64).tag(17).name("nothing"))?;
/// assert_eq!(block.as_ptr() as usize % 64, 0);
/// assert_eq!(block.tag(), 17);
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Code<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) align: usize,
    pub(crate) tag: u64,
    pub(crate) name: Option<&'a str>,
    pub(crate) unwind: Option<UnwindInfo<'a>>,
}

impl<'a> Code<'a> {
    /// Position-independent code, or code linked for the address that
    /// [`Batch::address`](crate::Batch::address) gave.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, align: GRANULE, tag: 0, name: None, unwind: None }
    }

    /// Alignment of the first byte: a power of two up to 2 MiB, and in a smaller arena up to its
    /// capacity rounded up to one. At least 16 in any case.
    pub fn align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// A number of the caller's, returned by [`CodeArena::lookup`](crate::CodeArena::lookup); 0
    /// unless set.
    pub fn tag(self, tag: u64) -> Self {
        Self { tag, ..self }
    }

    /// A name for the arena's [`Observer`](crate::Observer).
    pub fn name(self, name: &'a str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// How to find the caller's frame from inside of the code, for the arena's
    /// [`Observer`](crate::Observer).
    pub fn unwind(self, info: UnwindInfo<'a>) -> Self {
        Self { unwind: Some(info), ..self }
    }
}

/// How to unwind a stack through a function, in the form that its system's unwinder takes. None of
/// it depends on where the function will lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnwindInfo<'a> {
    /// Call frame information as in a section `.eh_frame`: one CIE or more, then FDEs. Each FDE's
    /// first address is absolute (`DW_EH_PE_absptr`, the only encoding that is taken) and counted
    /// from the start of the function, so as a rule 0.
    EhFrame(&'a [u8]),
    /// The `UNWIND_INFO` of Windows, which has to be near the code, stands in the function's own
    /// bytes.
    Windows {
        /// Where it begins, in bytes from the start of the function; a multiple of 4.
        offset: usize,
        /// Bytes of the function that are code, from its start.
        code: usize,
    },
}

impl<'a> From<&'a [u8]> for Code<'a> {
    fn from(bytes: &'a [u8]) -> Self {
        Self::new(bytes)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Code<'a> {
    fn from(bytes: &'a [u8; N]) -> Self {
        Self::new(bytes)
    }
}

impl<'a> From<&'a Vec<u8>> for Code<'a> {
    fn from(bytes: &'a Vec<u8>) -> Self {
        Self::new(bytes)
    }
}
