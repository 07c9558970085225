//! iced-x86: two functions in a batch, the second calls the first and then a Rust function.
//!
//! iced links what it assembles at the address that it is given, calls to absolute addresses
//! included. Nothing is known of a function's size before, so a slot is reserved for the most that
//! it can be.

#[cfg(target_arch = "x86_64")]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    use gaia_jit::CodeArena;
    use gaia_jit_assemblers::negate;
    use iced_x86::code_asm::{CodeAssembler, ptr, rax, rbx, rdi, rsi, rsp};

    /// More than any of the functions here takes.
    const MOST: usize = 64;

    let arena = CodeArena::builder().near(negate as *const u8).build()?;
    let mut batch = arena.batch();
    let square = batch.reserve(MOST, 16)?;
    // Were it not near, this slot would have a stub behind its code.
    let sum = batch.reserve_with_stubs(MOST, 16, 1)?;
    let (square_at, sum_at) = (batch.address(square) as u64, batch.address(sum) as u64);
    let negate_at = batch.branch_target(sum, negate as *const u8)? as u64;

    let mut a = CodeAssembler::new(64)?;
    a.mov(rax, rdi)?;
    a.imul_2(rax, rdi)?;
    a.ret()?;
    let code = a.assemble(square_at)?;
    batch.bytes_mut(square)[..code.len()].copy_from_slice(&code);

    let mut a = CodeAssembler::new(64)?;
    a.push(rbx)?;
    a.sub(rsp, 16)?;
    a.mov(rbx, rsi)?;
    a.call(square_at)?;
    a.mov(ptr(rsp), rax)?;
    a.mov(rdi, rbx)?;
    a.call(square_at)?;
    a.add(rax, ptr(rsp))?;
    a.mov(rdi, rax)?;
    a.call(negate_at)?;
    a.add(rsp, 16)?;
    a.pop(rbx)?;
    a.ret()?;
    let code = a.assemble(sum_at)?;
    batch.bytes_mut(sum)[..code.len()].copy_from_slice(&code);

    let blocks = batch.publish()?;
    // SAFETY: the code is of this type.
    let function = unsafe { blocks[sum.index()].as_fn::<unsafe extern "sysv64" fn(i64, i64) -> i64>() };
    // SAFETY: the blocks are alive.
    let result = unsafe { function(3, 4) };
    println!("-(3² + 4²) = {result}");
    assert_eq!(result, -25);
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("iced-x86 assembles for x86 alone");
}
