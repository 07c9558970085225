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
/// Code generators make it: Cranelift does, and the crate `gimli` writes it from a description.
/// This is the whole of it for a function on x86-64 that begins with `push rbp; mov rbp, rsp` and
/// ends with `pop rbp; ret`:
///
/// ```
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// use gaia_jit::{Code, UnwindInfo};
///
/// let code = [0x55, 0x48, 0x89, 0xe5, 0x90, 0x5d, 0xc3];
/// let frames: Vec<u8> = [
///     &[20, 0, 0, 0, 0, 0, 0, 0, 1, 0][..], // CIE of 20 bytes: version 1, no augmentation,
///     &[1, 0x78, 16],                       // factors 1 and -8, the return address is register 16
///     &[0x0c, 7, 8, 0x90, 1],               // the frame is rsp + 8, the return address at its end
///     &[0; 6],                              // padding
///     &[36, 0, 0, 0, 28, 0, 0, 0],          // FDE of 36 bytes, 28 behind the start of its CIE
///     &[0; 8],                              // its first address: the start of the function
///     &(code.len() as u64).to_le_bytes(),
///     &[0x41, 0x0e, 16, 0x86, 2],           // 1 byte on: the frame is rsp + 16, rbp is saved
///     &[0x43, 0x0d, 6],                     // 3 bytes on: the frame is rbp + 16
///     &[0x42, 0x0c, 7, 8],                  // 2 bytes on, behind `pop rbp`: rsp + 8 again
///     &[0; 4],                              // padding
/// ]
/// .concat();
/// # #[cfg(all(feature = "unwind", target_os = "linux", target_arch = "x86_64"))]
/// gaia_jit::unwind::Unwinder::check(UnwindInfo::EhFrame(&frames), &code).unwrap();
/// let block = arena.publish(Code::new(&code).unwind(UnwindInfo::EhFrame(&frames)))?;
/// # Ok::<(), gaia_jit::Error>(())
/// ```
///
/// The numbers are those of DWARF: a length counts the bytes behind it, padding included. Values
/// from 128 on take two bytes (208 is `0xd0, 1`), and a distance above 63 is `0x02` with the
/// distance in a byte of its own. A function that begins with `sub rsp, 24` has `0x44, 0x0e, 32` (4
/// bytes on: the frame is rsp + 32). Behind the `add rsp, 24` at its end it has `0x40` plus the
/// number of bytes since then, and `0x0e, 8`.
///
/// An observer that cannot use the information counts a refusal, and the function is published all
/// the same. `unwind::Unwinder::check` (feature `unwind`) returns the reason. It checks
/// the form, and cannot know whether the frames are those of the code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum UnwindInfo<'a> {
    /// Call frame information, as in a section `.eh_frame`: one CIE or more, then FDEs. The first
    /// address of each FDE is absolute (`DW_EH_PE_absptr`, the only encoding that is accepted) and
    /// is counted from the start of the function, so it is usually 0. The length of each FDE covers
    /// code, and no stubs. A terminator may follow and is not needed.
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
