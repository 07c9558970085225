//! A sandbox such as browsers and services put themselves into: a filter of system calls.

/// From now on this process may not write at offsets of files, so not to its own memory through the
/// kernel either. Whether that could be had; emulators know no filters.
pub fn deny_kernel_writes() -> bool {
    deny(libc::SYS_pwrite64)
}

/// From now on this process may not make a system call. Whether that could be had.
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

/// From now on this process is killed when it makes one of these calls with a first argument in one
/// of these ranges (addresses and lengths). Whether that could be had.
pub fn kill_in(calls: &[libc::c_long], ranges: &[(usize, usize)]) -> bool {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const JUMP: u32 = libc::BPF_JMP | libc::BPF_K;
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    // The first argument, a number of 64 bits, in `struct seccomp_data`.
    let (low, high) = if cfg!(target_endian = "little") { (16, 20) } else { (20, 16) };
    let mut program = vec![step(LOAD, 0, 0, 0)];
    for (index, call) in calls.iter().enumerate() {
        // To behind the statement that lets all others pass.
        program.push(step(JUMP | libc::BPF_JEQ, *call as u32, (calls.len() - index) as u8, 0));
    }
    program.push(step(libc::BPF_RET | libc::BPF_K, libc::SECCOMP_RET_ALLOW, 0, 0));
    for &(start, len) in ranges {
        let (first, last) = (start as u64, (start + len - 1) as u64);
        let (first_high, last_high) = ((first >> 32) as u32, (last >> 32) as u32);
        // Below the first, or above the last: on to the next range. Numbers of 64 bits are compared
        // by halves.
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

/// From now on this process is killed when it makes any other system call. Whether that could be
/// had.
pub fn allow_only(calls: &[libc::c_long]) -> bool {
    let step = |code: u32, k: u32, jt: u8, jf: u8| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut program = vec![step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0)];
    for call in calls {
        // The next statement lets it pass.
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
