//! The system's list of this process's mappings.

use windows_sys::Win32::System::Memory::{
    MEM_COMMIT, MEM_FREE, MEMORY_BASIC_INFORMATION, PAGE_EXECUTE, PAGE_EXECUTE_READ, PAGE_EXECUTE_READWRITE,
    PAGE_EXECUTE_WRITECOPY, PAGE_READONLY, PAGE_READWRITE, PAGE_WRITECOPY, VirtualQuery,
};

/// Returns start, length, state and protection of the regions in `[start, start + len)`, without
/// free space.
fn query(start: usize, len: usize) -> Vec<(usize, usize, u32, u32)> {
    let mut found = Vec::new();
    let mut at = start;
    while at < start + len {
        let mut info = MEMORY_BASIC_INFORMATION::default();
        // SAFETY: `info` is valid for the call to write to, and as large as it is said to be.
        let got = unsafe { VirtualQuery(std::ptr::without_provenance(at), &raw mut info, size_of_val(&info)) };
        if got == 0 {
            break;
        }
        let end = info.BaseAddress.addr().saturating_add(info.RegionSize).min(start + len);
        if info.State != MEM_FREE {
            found.push((at, end - at, info.State, info.Protect));
        }
        at = end;
    }
    found
}

/// Returns the permissions of the committed regions in `[start, start + len)`.
pub fn mappings(start: usize, len: usize) -> Vec<String> {
    let letters = |protection: u32| match protection & 0xff {
        PAGE_READONLY => "r--",
        PAGE_READWRITE | PAGE_WRITECOPY => "rw-",
        PAGE_EXECUTE => "--x",
        PAGE_EXECUTE_READ => "r-x",
        PAGE_EXECUTE_READWRITE | PAGE_EXECUTE_WRITECOPY => "rwx",
        _ => "---",
    };
    let committed = query(start, len).into_iter().filter(|(_, _, state, _)| *state == MEM_COMMIT);
    committed.map(|(_, _, _, protection)| letters(protection).to_string()).collect()
}

/// Returns how many of `len` bytes at `base` are committed.
pub fn resident(base: usize, len: usize) -> usize {
    query(base, len).iter().filter(|(_, _, state, _)| *state == MEM_COMMIT).map(|(_, len, _, _)| len).sum()
}

/// Returns the bytes of address space in use.
pub fn taken() -> usize {
    query(0, usize::MAX).iter().map(|(_, len, _, _)| len).sum()
}
