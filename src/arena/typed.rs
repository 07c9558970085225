//! Function pointers that cannot outlive the owner of their code.
//!
//! ```text
//! CodeBlock::typed, Entry::typed --> borrows the owner: it cannot be dropped while the pointer is used
//! Guard::typed                   --> borrows the guard: the code may be dropped, but stays intact
//! ```
//!
//! The type of the function is promised once, in an unsafe call. The calls after that are safe.
//! `call` is implemented by a macro for each number of arguments and each calling convention,
//! because one generic method cannot have every signature.

use std::fmt;
use std::marker::PhantomData;

use super::{CodeBlock, Guard};

/// A function pointer that cannot outlive the block, or the guard, that it was taken from.
///
/// The type of the code is asserted once, when this value is made. From then on calls are safe.
/// [`call`](Self::call) exists for pointers of up to six arguments that are not `unsafe`
/// themselves, in the conventions `C`, `C-unwind`, `system`, and on x86-64 `sysv64`. For all others
/// there is [`get`](Self::get).
///
/// ```
/// # #[cfg(target_arch = "x86_64")] {
/// use gaia_jit::{CodeArena, Typed};
///
/// let arena = CodeArena::builder().capacity(1 << 20).build()?;
/// let block = arena.publish(&[0x8d, 0x04, 0x37, 0xc3])?; // lea eax, [rdi + rsi]; ret
/// // SAFETY: this is what the code above does, in the calling convention of Unix.
/// let add: Typed<'_, extern "sysv64" fn(i32, i32) -> i32> = unsafe { block.typed() };
/// assert_eq!(add.call(40, 2), 42);
/// # }
/// # Ok::<(), gaia_jit::Error>(())
/// ```
///
/// The block cannot be dropped as long as the pointer is used:
///
/// ```compile_fail,E0505
/// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
/// let block = arena.publish(&[0xc3])?;
/// // SAFETY: the code takes nothing and returns nothing.
/// let nothing = unsafe { block.typed::<extern "C" fn()>() };
/// drop(block);
/// nothing.call();
/// # Ok::<(), gaia_jit::Error>(())
/// ```
#[derive(Clone, Copy)]
pub struct Typed<'a, F> {
    function: F,
    keeper: PhantomData<&'a ()>,
}

impl<F: Copy> Typed<'_, F> {
    /// Returns the function pointer itself.
    ///
    /// ```
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0xc3])?;
    /// // SAFETY: the code takes nothing and returns nothing.
    /// let nothing = unsafe { block.typed::<unsafe extern "C" fn()>() };
    /// // SAFETY: the block is alive.
    /// let function = unsafe { nothing.get() };
    /// assert_eq!(function as usize, block.as_ptr() as usize);
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - The function is not called after the block or the guard of this pointer was dropped.
    pub unsafe fn get(&self) -> F {
        self.function
    }
}

impl<F> fmt::Debug for Typed<'_, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Typed<{}>", std::any::type_name::<F>())
    }
}

impl CodeBlock {
    /// Returns the address of the first byte as a function pointer that cannot outlive the block.
    /// The size of `F` is checked when the program is compiled.
    ///
    /// ```
    /// # #[cfg(any(target_arch = "x86", target_arch = "x86_64"))] {
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// let block = arena.publish(&[0xb8, 7, 0, 0, 0, 0xc3])?; // mov eax, 7; ret
    /// // SAFETY: the code takes nothing and returns a number.
    /// let seven = unsafe { block.typed::<extern "C" fn() -> i32>() };
    /// assert_eq!(seven.call(), 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - `F` is a function pointer type that the code is written for. If it is not an `unsafe` one,
    ///   the code is sound for all arguments of its types.
    /// - Everything that the code reaches, such as other blocks and data, is alive as long as the
    ///   pointer is called.
    /// - The code does not change meanwhile, except as the safety lists of [`CodeBlock::patch`] and
    ///   [`CodeBlock::patch_word`] allow.
    /// - In a forked child, in modes with shared memory, the parent keeps the block as long as the
    ///   child calls the pointer.
    pub unsafe fn typed<F: Copy>(&self) -> Typed<'_, F> {
        // SAFETY: passed on to the caller. The block lives as long as the returned value.
        Typed { function: unsafe { self.as_fn() }, keeper: PhantomData }
    }
}

impl Guard<'_> {
    /// Returns the code at `address` as a function pointer that cannot outlive the guard.
    ///
    /// ```
    /// # #[cfg(target_arch = "x86_64")] {
    /// # let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    /// # let block = arena.publish(&[0xb8, 7, 0, 0, 0, 0xc3])?; // mov eax, 7; ret
    /// # let table = std::sync::atomic::AtomicPtr::new(block.as_ptr().cast_mut());
    /// let guard = arena.pin();
    /// let address = table.load(std::sync::atomic::Ordering::Acquire);
    /// // SAFETY: the table leads to live blocks of this type. What is taken out of it is dropped afterwards.
    /// let seven = unsafe { guard.typed::<extern "C" fn() -> i32>(address) };
    /// drop(block);
    /// assert_eq!(seven.call(), 7);
    /// # }
    /// # Ok::<(), gaia_jit::Error>(())
    /// ```
    ///
    /// # Safety
    /// - `address` is the first byte of a block of the guard's arena, or of an entry point in it.
    ///   It was read after the guard was taken, from a place that contains no block that was
    ///   dropped before.
    /// - As for [`CodeBlock::typed`].
    pub unsafe fn typed<F: Copy>(&self, address: *const u8) -> Typed<'_, F> {
        // SAFETY: passed on to the caller.
        Typed { function: unsafe { crate::entry::cast(address) }, keeper: PhantomData }
    }
}

macro_rules! calls {
    ($abi:literal: $(($($argument:ident: $type:ident),*))+) => {$(
        impl<Return, $($type),*> Typed<'_, extern $abi fn($($type),*) -> Return> {
            /// Calls the code.
            #[allow(clippy::too_many_arguments, reason = "as many as the code takes")]
            pub fn call(&self, $($argument: $type),*) -> Return {
                (self.function)($($argument),*)
            }
        }
    )+};
    ($($abi:literal),+) => {$(
        calls!($abi:
            ()
            (a: A)
            (a: A, b: B)
            (a: A, b: B, c: C)
            (a: A, b: B, c: C, d: D)
            (a: A, b: B, c: C, d: D, e: E)
            (a: A, b: B, c: C, d: D, e: E, f: F)
        );
    )+};
}

calls!("C", "C-unwind", "system");
#[cfg(target_arch = "x86_64")]
calls!("sysv64");
