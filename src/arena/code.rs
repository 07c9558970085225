//! The code that is passed to `publish`: bytes, and what belongs to them.
#![forbid(unsafe_code)]

use crate::units::GRANULE;

/// Machine code to publish, with its alignment, tag, name and unwind information.
///
/// A byte slice converts into it: `arena.publish(&bytes[..])` works.
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
    /// Wraps code that is position-independent, or that was linked for the address that
    /// [`Batch::address`](crate::Batch::address) returned.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, align: GRANULE, tag: 0, name: None, unwind: None }
    }

    /// Sets the alignment of the first byte: a power of two up to 2 MiB. In an arena of less than 2
    /// MiB the limit is its capacity, rounded up to a power of two. Every block is aligned to 16
    /// bytes at least.
    ///
    /// ```
    /// # use gaia_jit::{Code, CodeArena};
    /// # let arena = CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(Code::new(&[0xc3]).align(64))?;
    /// assert_eq!(block.as_ptr().addr() % 64, 0);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    pub fn align(self, align: usize) -> Self {
        Self { align, ..self }
    }

    /// Sets a number that the caller chooses, which [`CodeArena::lookup`](crate::CodeArena::lookup)
    /// returns. It is 0 unless set.
    pub fn tag(self, tag: u64) -> Self {
        Self { tag, ..self }
    }

    /// Sets the name that the arena's [`Observer`](crate::Observer) gets.
    pub fn name(self, name: &'a str) -> Self {
        Self { name: Some(name), ..self }
    }

    /// Sets the unwind information that the arena's [`Observer`](crate::Observer) gets: how to find
    /// the frame of the caller from inside the code.
    pub fn unwind(self, info: UnwindInfo<'a>) -> Self {
        Self { unwind: Some(info), ..self }
    }
}

/// The way to unwind a stack through a function, in the form that the system's unwinder takes. It
/// does not depend on the address of the function.
///
/// ```
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// use gaia_jit::{Code, UnwindInfo};
///
/// # let frames: [u8; 0] = [];
/// let code = Code::new(&[0xc3]).unwind(UnwindInfo::EhFrame(&frames));
/// let block = arena.publish(code)?;
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnwindInfo<'a> {
    /// Call frame information, as in a section `.eh_frame`: one CIE or more, then FDEs. The first
    /// address of each FDE is absolute (`DW_EH_PE_absptr`, the only encoding that is accepted) and
    /// is counted from the start of the function, so it is usually 0.
    EhFrame(&'a [u8]),
    /// The `UNWIND_INFO` of Windows. It has to be near the code, so it is a part of the function's
    /// own bytes.
    Windows {
        /// The offset of the `UNWIND_INFO`, in bytes from the start of the function; a multiple of
        /// 4.
        offset: usize,
        /// The bytes of the function that are code, counted from its start.
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
