//! Tests of `JitMemory`: one block, call by call.
//!
//! - *Compatibility*: the example of gaia-jit 0.1.1 compiles and runs unchanged (x86 only).
//! - *Calls*: `write`, `write_at`, `entry`, `as_slice` and `clear`. The functions that they place
//!   are run.
//! - *Protection*: a write makes only its own pages writable, and functions in other pages still
//!   run. The crate `region` reads the protection of each page.
//! - *Bounds*: a size or an offset that is too large is a typed error, and the block keeps its
//!   content.
//! - *Nothing*: empty blocks, empty writes, and a gap to which nothing was written.
//!
//! The last test checks a documented limit: a write to a block ends a thread that runs code in the
//! same page. It is made in a child process, because that process is expected to be killed. The
//! test exists on Linux. Under qemu it prints `NOT RUN`.

use crate::common::{asm, call_at};
use gaia_jit::{Error, JitMemory};

fn protection(address: *const u8) -> region::Protection {
    region::query(address).unwrap().protection()
}

/// The example that gaia-jit 0.1.1 published, unchanged.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
#[allow(clippy::undocumented_unsafe_blocks, clippy::multiple_unsafe_ops_per_block, reason = "its text is the test")]
mod published_example {
    use gaia_jit::JitMemory;

    fn main() -> std::io::Result<()> {
        let mut jit = JitMemory::new(4096)?;
        jit.write(&[0x90, 0xc3])?;
        jit.make_executable()?;
        unsafe {
            let f: unsafe extern "C" fn() = jit.as_fn();
            f();
        }
        Ok(())
    }

    #[test]
    fn runs_unchanged() {
        main().unwrap();
    }
}

#[test]
fn a_second_function_is_callable_where_it_was_written() {
    let mut jit = JitMemory::new(4096).unwrap();
    assert_eq!(jit.write(&asm::constant(11)).unwrap(), 0);
    let base = jit.make_executable().unwrap();
    assert_eq!(call_at(base), 11);
    let second = jit.write(&asm::constant(22)).unwrap();
    let again = jit.make_executable().unwrap();
    assert_eq!((again, call_at(base), call_at(base.wrapping_add(second))), (base, 11, 22));
    // SAFETY: the code is of this type.
    let f = unsafe { jit.entry::<extern "C" fn() -> u32>(second) }.unwrap();
    assert_eq!(f(), 22);
    let mut both = asm::constant(11);
    both.extend(asm::constant(22));
    assert_eq!(jit.as_slice(), both);
}

#[test]
fn entry_makes_executable_what_was_written_since() {
    let mut jit = JitMemory::new(1).unwrap();
    for n in 1..20 {
        let at = jit.write(&asm::constant(n)).unwrap();
        // SAFETY: the code is of this type.
        assert_eq!(unsafe { jit.entry::<extern "C" fn() -> u32>(at) }.unwrap()(), n);
    }
}

#[test]
fn only_the_pages_written_to_change() {
    let page = region::page::size();
    let mut jit = JitMemory::new(8 * page).unwrap();
    for n in 0..8 {
        jit.write_at(n * page, &asm::constant(n as u32)).unwrap();
    }
    let base = jit.make_executable().unwrap();
    jit.write_at(3 * page - 1, &[0, 0]).unwrap();
    for n in 0..8 {
        let expected = match n {
            2 | 3 => region::Protection::READ_WRITE,
            _ => region::Protection::READ_EXECUTE,
        };
        assert_eq!(protection(base.wrapping_add(n * page)), expected, "page {n}");
    }
    // Executable pages still run while others are written.
    assert_eq!(call_at(base.wrapping_add(5 * page)), 5);
    jit.make_executable().unwrap();
    for n in 0..8 {
        assert_eq!(protection(base.wrapping_add(n * page)), region::Protection::READ_EXECUTE, "page {n}");
    }
    jit.make_writable().unwrap();
    for n in 0..8 {
        assert_eq!(protection(base.wrapping_add(n * page)), region::Protection::READ_WRITE, "page {n}");
    }
    jit.make_executable().unwrap();
    assert_eq!(call_at(base.wrapping_add(7 * page)), 7);
}

#[test]
fn bounds_are_errors_and_change_nothing() {
    let page = region::page::size();
    assert!(matches!(JitMemory::new(0), Err(Error::ZeroSize)));
    for huge in [usize::MAX, usize::MAX - 1, isize::MAX as usize + 1] {
        assert!(matches!(JitMemory::new(huge), Err(Error::TooLarge { .. })), "{huge:#x}");
    }
    // A 32-bit program may have so much address space, under a 64-bit kernel.
    assert!(cfg!(target_pointer_width = "32") || JitMemory::new(isize::MAX as usize - page).is_err());
    let mut jit = JitMemory::new(1).unwrap();
    assert_eq!((jit.capacity(), jit.len(), jit.is_empty()), (page, 0, true));
    jit.write(&asm::constant(1)).unwrap();
    let len = jit.len();
    assert!(matches!(jit.write(&vec![0; page]), Err(Error::PastCapacity { .. })));
    for offset in [page - 1, page, usize::MAX, usize::MAX - 1] {
        assert!(matches!(jit.write_at(offset, &[0, 0]), Err(Error::PastCapacity { .. })), "{offset:#x}");
    }
    for offset in [len, page, usize::MAX] {
        // SAFETY: the call is refused.
        let entry = unsafe { jit.entry::<extern "C" fn()>(offset) };
        assert!(matches!(entry, Err(Error::PastCapacity { .. })));
    }
    assert_eq!((jit.len(), call_at(jit.make_executable().unwrap())), (len, 1));
    let error = std::io::Error::from(jit.write(&vec![0; page]).unwrap_err());
    assert!(error.get_ref().is_some_and(|inner| inner.downcast_ref::<Error>().is_some()));
}

#[test]
fn cleared_it_begins_anew() {
    let mut jit = JitMemory::new(4096).unwrap();
    jit.write(&asm::constant(1)).unwrap();
    jit.make_executable().unwrap();
    jit.clear();
    assert!(jit.is_empty());
    assert_eq!(jit.write(&asm::constant(2)).unwrap(), 0);
    assert_eq!(call_at(jit.make_executable().unwrap()), 2);
}

#[test]
fn an_empty_block_can_be_made_executable_and_an_empty_write_is_nothing() {
    let mut jit = JitMemory::new(4096).unwrap();
    assert_eq!(jit.write(&[]).unwrap(), 0);
    assert_eq!(jit.make_executable().unwrap(), jit.as_ptr());
    jit.make_writable().unwrap();
    assert_eq!(jit.write_at(jit.capacity(), &[]).ok(), Some(()));
    assert!(jit.is_empty());
    assert!(matches!(jit.write_at(jit.capacity() + 1, &[]), Err(Error::PastCapacity { .. })));
}

/// The gap that a write far beyond the end leaves is empty, but it can be entered as everything
/// else.
#[test]
fn a_gap_is_executable_when_it_is_entered() {
    let page = region::page::size();
    let mut jit = JitMemory::new(8 * page).unwrap();
    jit.write_at(5 * page, &asm::constant(5)).unwrap();
    // SAFETY: not called.
    let gap = unsafe { jit.entry::<extern "C" fn()>(page) }.unwrap();
    assert_eq!(protection(gap as *const u8), region::Protection::READ_EXECUTE);
    assert_eq!(protection(jit.as_ptr()), region::Protection::READ_WRITE, "nothing was written there");
    assert_eq!(call_at(jit.as_ptr().wrapping_add(5 * page)), 5);
}

/// The use that ended processes: functions are added to a block while another thread runs earlier
/// ones. The arena's form of it is sound. The block has the limit that is documented.
#[test]
#[cfg(target_os = "linux")]
fn a_shared_single_block_dies_where_an_arena_lives() {
    // An emulator continues a loop that it has translated, whatever happens to its page.
    if !crate::common::own_kernel("a_shared_single_block_dies_where_an_arena_lives") {
        return;
    }
    let died = crate::common::child::output("a_shared_single_block_dies_where_an_arena_lives", || {
        let mut jit = JitMemory::new(4096).unwrap();
        jit.write(&asm::spin()).unwrap();
        // SAFETY: the code is of this type.
        let spin = unsafe { jit.entry::<extern "C" fn(*const u32) -> u32>(0) }.unwrap();
        let flag: &'static std::sync::atomic::AtomicU32 = Box::leak(Box::default());
        std::thread::spawn(move || spin(flag.as_ptr()));
        // The page becomes non-executable under the thread that runs in it.
        for _ in 0..1_000_000 {
            jit.write_at(1_024, &asm::constant(1)).unwrap();
            std::thread::yield_now();
        }
    });
    assert!(!died.status.success(), "the documented limit of a single block is gone: document that");
}
