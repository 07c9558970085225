//! dynasm-rs: two functions in a batch, the second calls the first and then a Rust function.
//!
//! The arena is made `near` the Rust function, so a direct call reaches it. Functions are assembled
//! for the addresses at which they will run; their size is known only then, so a slot is reserved
//! for the most that it can be.

use dynasmrt::{VecAssembler, dynasm};
use gaia_jit::{CodeArena, Slot};
use gaia_jit_assemblers::negate;

/// More than any of the functions here takes.
const MOST: usize = 96;

#[cfg(target_arch = "x86_64")]
mod code {
    use dynasmrt::{DynasmApi, DynasmLabelApi};

    use super::*;

    pub(super) type Relocation = dynasmrt::x64::X64Relocation;
    pub(super) type Function = unsafe extern "sysv64" fn(i64, i64) -> i64;

    pub(super) fn square(ops: &mut VecAssembler<Relocation>) {
        dynasm!(ops
            ; .arch x64
            ; mov rax, rdi
            ; imul rax, rdi
            ; ret
        );
    }

    pub(super) fn sum(ops: &mut VecAssembler<Relocation>, square: usize, negate: usize) {
        dynasm!(ops
            ; .arch x64
            ; push rbx
            ; sub rsp, 16
            ; mov rbx, rsi
            ; call extern square
            ; mov [rsp], rax
            ; mov rdi, rbx
            ; call extern square
            ; add rax, [rsp]
            ; mov rdi, rax
            ; call extern negate
            ; add rsp, 16
            ; pop rbx
            ; ret
        );
    }
}

#[cfg(target_arch = "aarch64")]
mod code {
    use dynasmrt::DynasmLabelApi;

    use super::*;

    pub(super) type Relocation = dynasmrt::aarch64::Aarch64Relocation;
    pub(super) type Function = unsafe extern "C" fn(i64, i64) -> i64;

    pub(super) fn square(ops: &mut VecAssembler<Relocation>) {
        dynasm!(ops
            ; .arch aarch64
            ; mul x0, x0, x0
            ; ret
        );
    }

    pub(super) fn sum(ops: &mut VecAssembler<Relocation>, square: usize, negate: usize) {
        dynasm!(ops
            ; .arch aarch64
            ; stp x29, x30, [sp, #-32]!
            ; stp x19, x20, [sp, #16]
            ; mov x19, x1
            ; bl extern square
            ; mov x20, x0
            ; mov x0, x19
            ; bl extern square
            ; add x0, x0, x20
            ; bl extern negate
            ; ldp x19, x20, [sp, #16]
            ; ldp x29, x30, [sp], #32
            ; ret
        );
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use code::{Function, Relocation};

    let arena = CodeArena::builder().near(negate as *const u8).build()?;
    let mut batch = arena.batch();
    let square: Slot = batch.reserve(MOST, 16)?;
    // Were it not near, this slot would have a stub behind its code.
    let sum = batch.reserve_with_stubs(MOST, 16, 1)?;
    let (square_at, negate_at) = (batch.address(square), batch.branch_target(sum, negate as *const u8)?);

    let mut ops = VecAssembler::<Relocation>::new(square_at.addr());
    code::square(&mut ops);
    let bytes = ops.finalize()?;
    batch.bytes_mut(square)[..bytes.len()].copy_from_slice(&bytes);

    let mut ops = VecAssembler::<Relocation>::new(batch.address(sum).addr());
    code::sum(&mut ops, square_at.addr(), negate_at.addr());
    let bytes = ops.finalize()?;
    batch.bytes_mut(sum)[..bytes.len()].copy_from_slice(&bytes);

    let blocks = batch.publish()?;
    // SAFETY: the code is of this type.
    let function = unsafe { blocks[sum.index()].as_fn::<Function>() };
    // SAFETY: the blocks are alive.
    let result = unsafe { function(3, 4) };
    println!("-(3² + 4²) = {result}");
    assert_eq!(result, -25);
    Ok(())
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn main() {
    println!("dynasm-rs has no assembler for this processor");
}
