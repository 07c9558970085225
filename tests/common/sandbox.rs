//! A sandbox like those of browsers and services: a filter of system calls.

/// Forbids this process to write at offsets of files, and so to its own memory through the kernel.
/// Returns whether that succeeded. Emulators do not support filters.
pub fn deny_kernel_writes() -> bool {
    deny(libc::SYS_pwrite64)
}

/// Forbids this process a system call. Returns whether that succeeded.
pub fn deny(call: libc::c_long) -> bool {
    let statement = |code: u32, k: u32| libc::sock_filter { code: code as u16, jt: 0, jf: 0, k };
    let equal =
        libc::sock_filter { code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16, jt: 0, jf: 1, k: call as u32 };
    let mut program = [
        // The number of the call: the first field of `struct seccomp_data`.
        statement(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0),
        equal,
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW),
    ];
    enter(&mut program)
}

/// Sets that this process is ended if it makes one of these calls with a first argument in one of
/// these ranges (addresses and lengths). Returns whether that succeeded.
pub fn kill_in(calls: &[libc::c_long], ranges: &[(usize, usize)]) -> bool {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JUMP: u32 = libc::BPF_JMP | libc::BPF_K;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    // The first argument, a number of 64 bits, in `struct seccomp_data`.
    let (low, high) = if cfg!(target_endian = "little") { (16, 20) } else { (20, 16) };
    let mut program = vec![step(LOAD, 0, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        // To the statement after the one that allows all other calls.
        program.push(step(JUMP | libc::BPF_JEQ, *call as u32, (calls.len() - index) as u8, 0));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    for &(start, len) in ranges {
        let (first, last) = (start as u64, (start + len - 1) as u64);
        let (first_high, last_high) = ((first >> 32) as u32, (last >> 32) as u32);
        // If the number is below the first or above the last, the next range follows. Numbers of 64
        // bits are compared by halves.
        program.extend([
            step(LOAD, high, 0, 0),
            step(JUMP | libc::BPF_JGT, first_high, 3, 0),
            step(JUMP | libc::BPF_JEQ, first_high, 0, 8),
            step(LOAD, low, 0, 0),
            step(JUMP | libc::BPF_JGE, first as u32, 0, 6),
            step(LOAD, high, 0, 0),
            step(JUMP | libc::BPF_JGT, last_high, 4, 0),
            step(JUMP | libc::BPF_JEQ, last_high, 0, 2),
            step(LOAD, low, 0, 0),
            step(JUMP | libc::BPF_JGT, last as u32, 1, 0),
            step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS, 0, 0),
        ]);
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    enter(&mut program)
}

/// Sets that this process is ended if it makes any other system call. Returns whether that
/// succeeded.
pub fn allow_only(calls: &[libc::c_long]) -> bool {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        // The next statement allows it.
        program.push(step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, *call as u32, 0, 1));
        program.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_KILL_PROCESS, 0, 0));
    enter(&mut program)
}

fn enter(program: &mut [libc::sock_filter]) -> bool {
    let filter = libc::sock_fprog { len: program.len() as u16, filter: program.as_mut_ptr() };
    // SAFETY: takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) } != 0 {
        return false;
    }
    // SAFETY: the filter is valid for the call to read.
    unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter) == 0 }
}
