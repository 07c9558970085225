//! Tests that no system call names given memory: a process that makes one is ended.

use super::*;

/// Sets that the process is ended if a call that maps, unmaps, protects or advises names an address
/// in these ranges.
fn kill_when_named(ranges: &[(usize, usize)]) -> bool {
    let calls = [
        libc::SYS_munmap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_mremap,
        libc::SYS_mlock,
        libc::SYS_msync,
        #[cfg(target_pointer_width = "64")]
        libc::SYS_mmap,
        // The `libc` crate has it for some targets only.
        #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
        libc::SYS_pkey_mprotect,
    ];
    sandbox::kill_in(&calls, ranges)
}

/// Does everything that an arena does with memory.
fn use_all(memory: GivenMemory) {
    let arena = build_with(CodeArena::builder().keep_free(0), memory).unwrap();
    let blocks: Vec<_> = (0..10_000).map(|n| arena.publish(&asm::padded(n, 16 + n as usize % 90)).unwrap()).collect();
    assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
    let mut batch = arena.batch();
    (0..1_000).for_each(|n| assert!(batch.push(&asm::padded(n, 300)).is_ok()));
    let published = batch.publish().unwrap();
    assert!((0..).zip(&published).all(|(n, block)| call(block) == n));
    // SAFETY: nobody runs it meanwhile.
    unsafe { published[0].patch(0, &asm::constant(77)) }.unwrap();
    assert_eq!(call(&published[0]), 77);
    drop(blocks);
    assert_eq!(arena.trim().unwrap(), 0);
    assert!(arena.collapse().is_err());
    assert!(arena.stats().live_blocks == 1_000 && arena.map().holes.len() > 1);
    drop(published);
    assert_eq!(arena.trim().unwrap(), 0);
    check_empty(&arena);
    drop(arena);
}

#[test]
fn no_call_names_the_memory() {
    const NAME: &str = "no_call_names_the_memory";
    child::run(NAME, || {
        for with_function in [false, true] {
            assert!(fork(|| {
                let views = Arc::new(Views::new(4 << 20));
                let data = Views::new(1 << 20);
                let ranges = [views.executable, views.alias].map(|start| (start.as_ptr().addr(), views.len));
                let ranges = [ranges[0], ranges[1], (data.alias.as_ptr().addr(), data.len)];
                if !kill_when_named(&ranges) {
                    return common::not_run(NAME, "no filters here");
                }
                let mut memory = views.part(4096 + 48, (3 << 20) + 77, with_function);
                // On other architectures it may be out of reach of the code.
                if cfg!(target_arch = "x86_64") {
                    memory.data = Some(NonNull::slice_from_raw_parts(data.alias, data.len));
                }
                match memory.data {
                    Some(at) if at.cast::<u8>().as_ptr().addr().abs_diff(ranges[0].0) > 1 << 30 => memory.data = None,
                    _ => {}
                }
                use_all(memory);
                assert_eq!(Arc::strong_count(&views), 1);
                // Unmapping them would end the process.
                std::mem::forget((views, data));
            }));
        }
    });
}

#[test]
fn a_call_that_names_the_memory_would_be_seen() {
    const NAME: &str = "a_call_that_names_the_memory_would_be_seen";
    let output = child::output(NAME, || {
        let views = Views::new(4 << 20);
        let page = region::page::size();
        let last = views.executable.as_ptr().wrapping_add(views.len - page);
        if !kill_when_named(&[(views.executable.as_ptr().addr(), views.len)]) {
            println!("no filters here");
            std::process::exit(0);
        }
        println!("filtered");
        // A call that names another address is allowed.
        drop(vec![0_u8; 10 << 20]);
        // SAFETY: a page that nobody uses.
        unsafe { libc::madvise(views.alias.as_ptr().cast(), page, libc::MADV_NORMAL) };
        println!("others pass");
        // SAFETY: nobody uses the page. The call is expected to end the process.
        unsafe { libc::madvise(last.cast(), page, libc::MADV_NORMAL) };
        println!("survived");
    });
    let said = String::from_utf8_lossy(&output.stdout);
    if said.contains("no filters here") {
        return common::not_run(NAME, "no filters here");
    }
    assert!(said.contains("others pass") && !said.contains("survived"), "{said}");
    assert_eq!(
        std::os::unix::process::ExitStatusExt::signal(&output.status),
        Some(libc::SIGSYS),
        "{:?}",
        output.status
    );
}
