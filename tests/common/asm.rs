//! Machine code for tests, by architecture. Instructions of AArch64, Arm and RISC-V are
//! little-endian, whatever the byte order of data. Those of s390x are big-endian.

/// Returns `extern "C" fn() -> u32 { n }`, with `n` below 32,768.
pub fn constant(n: u32) -> Vec<u8> {
    assert!(n < 32_768);
    if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
        let mut code = vec![0xb8]; // mov eax, n
        code.extend(n.to_le_bytes());
        code.push(0xc3); // ret
        code
    } else if cfg!(target_arch = "aarch64") {
        words_le(&[0x5280_0000 | n << 5, 0xd65f_03c0]) // movz w0, #n; ret
    } else if cfg!(target_arch = "arm") {
        words_le(&[0xe300_0000 | (n >> 12) << 16 | n & 0xfff, 0xe12f_ff1e]) // movw r0, #n; bx lr
    } else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
        // lui a0, high; addi a0, a0, low (sign-extended); ret
        let (high, low) = ((n + 0x800) >> 12, n & 0xfff);
        words_le(&[0x0000_0537 | high << 12, 0x0005_0513 | low << 20, 0x0000_8067])
    } else if cfg!(target_arch = "s390x") {
        let [high, low] = (n as u16).to_be_bytes();
        vec![0xa7, 0x29, high, low, 0x07, 0xfe] // lghi %r2, n; br %r14
    } else {
        panic!("no test code for this architecture")
    }
}

/// Returns `constant(n)`, followed by instructions that do nothing, `len` bytes in all.
pub fn padded(n: u32, len: usize) -> Vec<u8> {
    let mut code = constant(n);
    assert!(len >= code.len());
    code.resize(len, 0);
    code
}

/// Returns `extern "C" fn(a: u32, b: u32) -> u32 { a + b }`, in this system's calling convention of
/// `extern "C"`.
pub fn add() -> Vec<u8> {
    if cfg!(all(target_arch = "x86_64", windows)) {
        vec![0x8d, 0x04, 0x11, 0xc3] // lea eax, [rcx + rdx]; ret
    } else if cfg!(target_arch = "x86_64") {
        vec![0x8d, 0x04, 0x37, 0xc3] // lea eax, [rdi + rsi]; ret
    } else if cfg!(target_arch = "x86") {
        vec![0x8b, 0x44, 0x24, 0x04, 0x03, 0x44, 0x24, 0x08, 0xc3] // mov eax, [esp+4]; add eax, [esp+8]; ret
    } else if cfg!(target_arch = "aarch64") {
        words_le(&[0x0b01_0000, 0xd65f_03c0]) // add w0, w0, w1; ret
    } else if cfg!(target_arch = "arm") {
        words_le(&[0xe080_0001, 0xe12f_ff1e]) // add r0, r0, r1; bx lr
    } else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
        let add = if cfg!(target_arch = "riscv64") { 0x00b5_053b } else { 0x00b5_0533 }; // addw (add) a0, a0, a1
        words_le(&[add, 0x0000_8067])
    } else if cfg!(target_arch = "s390x") {
        vec![0x1a, 0x23, 0xb9, 0x16, 0x00, 0x22, 0x07, 0xfe] // ar %r2, %r3; llgfr %r2, %r2; br %r14
    } else {
        panic!("no test code for this architecture")
    }
}

/// Returns `extern "C" fn(flag: *const u32) -> u32`. It runs in a loop while `*flag` is 0, then
/// returns the new value.
pub fn spin() -> Vec<u8> {
    if cfg!(all(target_arch = "x86_64", windows)) {
        vec![0x8b, 0x01, 0x85, 0xc0, 0x74, 0xfa, 0xc3] // mov eax, [rcx]; test eax, eax; je -6; ret
    } else if cfg!(target_arch = "x86_64") {
        vec![0x8b, 0x07, 0x85, 0xc0, 0x74, 0xfa, 0xc3] // mov eax, [rdi]; test eax, eax; je -6; ret
    } else if cfg!(target_arch = "x86") {
        // mov ecx, [esp+4]; mov eax, [ecx]; test eax, eax; je -6; ret
        vec![0x8b, 0x4c, 0x24, 0x04, 0x8b, 0x01, 0x85, 0xc0, 0x74, 0xfa, 0xc3]
    } else if cfg!(target_arch = "aarch64") {
        words_le(&[0xb940_0001, 0x34ff_ffe1, 0x2a01_03e0, 0xd65f_03c0]) // ldr w1, [x0]; cbz w1, -4; mov w0, w1; ret
    } else if cfg!(target_arch = "arm") {
        // ldr r1, [r0]; cmp r1, #0; beq -8; mov r0, r1; bx lr
        words_le(&[0xe590_1000, 0xe351_0000, 0x0aff_fffc, 0xe1a0_0001, 0xe12f_ff1e])
    } else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
        words_le(&[0x0005_2583, 0xfe05_8ee3, 0x0005_8513, 0x0000_8067]) // lw a1, 0(a0); beqz a1, -4; mv a0, a1; ret
    } else if cfg!(target_arch = "s390x") {
        // lt %r1, 0(%r2); jz -6; llgfr %r2, %r1; br %r14
        vec![0xe3, 0x10, 0x20, 0x00, 0x00, 0x12, 0xa7, 0x84, 0xff, 0xfd, 0xb9, 0x16, 0x00, 0x21, 0x07, 0xfe]
    } else {
        panic!("no test code for this architecture")
    }
}

/// Returns a function of `TAIL_LEN` bytes for the address `from`, which jumps to `to`.
pub fn tail_call(from: *const u8, to: *const u8) -> Vec<u8> {
    let distance = to as isize - from as isize;
    if cfg!(any(target_arch = "x86", target_arch = "x86_64")) {
        let mut code = vec![0xe9]; // jmp rel32
        code.extend(i32::try_from(distance - 5).expect("in reach").to_le_bytes());
        code
    } else if cfg!(target_arch = "aarch64") {
        assert!(distance.unsigned_abs() < 128 << 20, "in reach");
        words_le(&[0x1400_0000 | (distance >> 2) as u32 & 0x03ff_ffff]) // b
    } else if cfg!(target_arch = "arm") {
        assert!(distance.unsigned_abs() < 32 << 20, "in reach");
        words_le(&[0xea00_0000 | ((distance - 8) >> 2) as u32 & 0x00ff_ffff]) // b
    } else if cfg!(any(target_arch = "riscv64", target_arch = "riscv32")) {
        // auipc t1, high; jr low(t1)
        let (high, low) = ((distance + 0x800) as u32 & 0xffff_f000, distance as u32 & 0xfff);
        words_le(&[0x0000_0317 | high, 0x0003_0067 | low << 20])
    } else if cfg!(target_arch = "s390x") {
        let mut code = vec![0xc0, 0xf4]; // jg
        code.extend(i32::try_from(distance / 2).expect("in reach").to_be_bytes());
        code
    } else {
        panic!("no test code for this architecture")
    }
}

/// Returns the length of [`tail_call`] in bytes.
pub fn tail_len() -> usize {
    tail_call(std::ptr::null(), std::ptr::null()).len()
}

fn words_le(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}
