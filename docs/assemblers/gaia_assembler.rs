//! gaia-assembler: its code for `add(a, b)` runs from an arena.
//!
//! gaia-assembler 0.1.1 cannot be a dependency: it rests on gaia-types 0.1.1, which needs unstable
//! features of Rust and does not build with the nightly compilers of late 2026 either. So the bytes
//! stand here. They are what its `backends::windows::emitter::X64Emitter` and the encoder of
//! x86_64-assembler 0.1.1 give for the function `LoadArg(0); LoadArg(1); Add; Ret` of two 64-bit
//! integers (built with a gaia-types whose `Try` was taken out).
//!
//! The code is for the convention of Windows, and it changes `rbx`, which belongs to its caller
//! there as everywhere. So a second function saves that, and calls the first.
//!
//! Errors: gaia-assembler's `GaiaError` is made from `std::io::Error`, and so is what comes from
//! here, by `?`.

#[cfg(target_arch = "x86_64")]
const ADD: &[u8] = &[
    0x40, 0x55, // push rbp
    0x48, 0x89, 0xe5, // mov rbp, rsp
    0x48, 0x81, 0xec, 0x20, 0x00, 0x00, 0x00, // sub rsp, 32
    0x48, 0x89, 0x4d, 0x10, // mov [rbp + 16], rcx
    0x48, 0x89, 0x55, 0x18, // mov [rbp + 24], rdx
    0x4c, 0x89, 0x45, 0x20, // mov [rbp + 32], r8
    0x4c, 0x89, 0x4d, 0x28, // mov [rbp + 40], r9
    0x48, 0x8b, 0x45, 0x10, // mov rax, [rbp + 16]
    0x40, 0x50, // push rax
    0x48, 0x8b, 0x45, 0x18, // mov rax, [rbp + 24]
    0x40, 0x50, // push rax
    0x40, 0x5b, // pop rbx
    0x40, 0x58, // pop rax
    0x48, 0x01, 0xd8, // add rax, rbx
    0x40, 0x50, // push rax
    0x40, 0x58, // pop rax
    0x48, 0x81, 0xc4, 0x20, 0x00, 0x00, 0x00, // add rsp, 32
    0x40, 0x5d, // pop rbp
    0xc3, // ret
];

/// As a program of gaia-assembler would have it: every error becomes one of the system's.
#[cfg(target_arch = "x86_64")]
fn add(a: i64, b: i64) -> std::io::Result<i64> {
    use gaia_jit::{Reloc, Target};
    let arena = gaia_jit::CodeArena::builder().capacity(1 << 20).build()?;
    let mut batch = arena.batch();
    let add = batch.push(ADD)?;
    // push rbx; sub rsp, 32; call add; add rsp, 32; pop rbx; ret
    let saving = [0x53, 0x48, 0x83, 0xec, 32, 0xe8, 0, 0, 0, 0, 0x48, 0x83, 0xc4, 32, 0x5b, 0xc3];
    let outer = batch.push(&saving)?;
    batch.link(outer, 6, Reloc::X86Call32, Target::Slot(add), -4)?;
    let blocks = batch.publish()?;
    // SAFETY: the code is of this type.
    let function = unsafe { blocks[outer.index()].as_fn::<unsafe extern "win64" fn(i64, i64) -> i64>() };
    // SAFETY: the blocks are alive.
    Ok(unsafe { function(a, b) })
}

#[cfg(target_arch = "x86_64")]
fn main() -> std::io::Result<()> {
    let sum = add(40, 2)?;
    println!("40 + 2 = {sum}");
    assert_eq!(sum, 42);
    // What is refused here is an error of the system there, with the reason in it.
    let refused = std::io::Error::from(gaia_jit::CodeArena::builder().capacity(0).build().map(drop).unwrap_err());
    println!("an error as std::io::Error: {refused} ({:?})", refused.kind());
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidInput);
    Ok(())
}

#[cfg(not(target_arch = "x86_64"))]
fn main() {
    println!("gaia-assembler's code here is for x86-64");
}
