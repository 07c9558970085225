//! Tests at the limit of mappings.

use gaia_jit::{CodeArena, Error, JitMemory};

use crate::common::{self, asm, call, child, modes};

/// Returns whether the program's allocator works at the limit of mappings. That of musl makes one
/// for every few objects, and the tests need memory too.
fn allocates(test: &str) -> bool {
    let fails = cfg!(target_env = "musl") || common::sanitized();
    if fails {
        common::not_run(test, "the program's own allocator fails at this limit");
    }
    !fails
}

/// Makes mappings until the system refuses more.
fn exhaust_mappings(taken: &mut Vec<(usize, usize)>) {
    let page = region::page::size();
    loop {
        // Alternating protections keep neighbours from merging.
        let protection = if taken.len() % 2 == 0 { libc::PROT_READ } else { libc::PROT_NONE };
        // SAFETY: a new mapping at an address of the system's choice.
        let at =
            unsafe { libc::mmap(std::ptr::null_mut(), page, protection, libc::MAP_PRIVATE | libc::MAP_ANON, -1, 0) };
        if at == libc::MAP_FAILED {
            return;
        }
        taken.push((at.addr(), page));
    }
}

fn unmap(mappings: impl IntoIterator<Item = (usize, usize)>) {
    for (at, len) in mappings {
        // SAFETY: mapped by `exhaust_mappings`, unmapped once.
        assert_eq!(unsafe { libc::munmap(std::ptr::without_provenance_mut(at), len) }, 0);
    }
}

/// At the limit of mappings single blocks cannot always be unmapped. Their memory is returned at
/// once, and their address space as soon as the system allows it.
#[test]
fn single_blocks_are_not_lost_at_the_limit_of_mappings() {
    if !common::own_kernel("single_blocks_are_not_lost_at_the_limit_of_mappings")
        || !allocates("single_blocks_are_not_lost_at_the_limit_of_mappings")
    {
        return;
    }
    child::run("single_blocks_are_not_lost_at_the_limit_of_mappings", || {
        let page = region::page::size();
        // `None` if nothing is mapped. Otherwise whether there is memory.
        let resident = |address: usize| {
            let mut state = 0u8;
            // SAFETY: there is a byte for the one page asked about.
            let got = unsafe { libc::mincore(std::ptr::without_provenance_mut(address), page, &raw mut state) };
            (got == 0).then_some(state & 1 == 1)
        };
        // The page by which forks are noticed is mapped when it is first needed. Later it could be
        // placed where a block was that the system did take back.
        drop(CodeArena::builder().capacity(1 << 20).build().unwrap());
        // Neighbours, which the system merges into one mapping.
        let mut blocks: Vec<_> = (0..200).map(|_| JitMemory::new(page).unwrap()).collect();
        for block in &mut blocks {
            block.write(&asm::constant(4)).unwrap();
        }
        let dropped: Vec<usize> = blocks.iter().step_by(2).map(|block| block.as_ptr().addr()).collect();
        let mut hoard = Vec::with_capacity(1 << 17);
        exhaust_mappings(&mut hoard);
        // Every second block, so that each would split a mapping in two.
        let mut index = 0;
        blocks.retain(|_| {
            index += 1;
            index % 2 == 0
        });
        assert!(dropped.iter().any(|&address| resident(address).is_some()), "the system took all back, at its limit");
        assert!(dropped.iter().all(|&address| resident(address) != Some(true)), "memory is lost");
        unmap(hoard.drain(..1_000));
        // Each release also returns a part of the waiting address space.
        for _ in 0..dropped.len() {
            drop(JitMemory::new(page).unwrap());
        }
        assert!(dropped.iter().all(|&address| resident(address).is_none()), "address space is lost");
        for block in &mut blocks {
            assert_eq!(block.as_slice(), asm::constant(4));
            // SAFETY: the code is of this type.
            assert_eq!(unsafe { block.entry::<extern "C" fn() -> u32>(0) }.unwrap()(), 4);
        }
        drop(blocks);
        unmap(hoard);
    });
}

/// At the limit of mappings an arena that fills holes continues. Nothing is lost, and it recovers.
#[test]
fn an_arena_survives_the_limit_of_mappings() {
    if !common::own_kernel("an_arena_survives_the_limit_of_mappings")
        || !allocates("an_arena_survives_the_limit_of_mappings")
    {
        return;
    }
    child::run("an_arena_survives_the_limit_of_mappings", || {
        for mode in modes() {
            let arena = CodeArena::builder().mode(mode).capacity(32 << 20).build().unwrap();
            let mut blocks = Vec::with_capacity(1 << 11);
            blocks.push(arena.publish(&asm::constant(1)).unwrap());
            let mut hoard = Vec::with_capacity(1 << 17);
            let _kept = free_memory();
            exhaust_mappings(&mut hoard);
            for round in 0..200 {
                let mut batch = arena.batch();
                let pushed = (0..400).try_for_each(|n| batch.push(&asm::padded(n, 1_000)).map(drop));
                match pushed.and_then(|()| batch.publish()) {
                    Ok(published) => blocks.extend(published),
                    Err(Error::OperatingSystem { .. }) => {}
                    Err(other) => panic!("{other}"),
                }
                if round % 3 == 0 {
                    blocks.truncate(100);
                }
                if let Ok(block) = arena.publish(&asm::padded(7, 600)) {
                    assert_eq!(call(&block), 7);
                }
                assert_eq!(call(&blocks[0]), 1);
            }
            unmap(hoard);
            blocks.clear();
            arena.trim().unwrap();
            let stats = arena.stats();
            assert_eq!((stats.free_bytes, stats.largest_hole, stats.resident_bytes), (32 << 20, 32 << 20, 0));
            assert_eq!(call(&arena.publish(&asm::constant(9)).unwrap()), 9);
        }
    });
}

/// Gives memory to the global allocator in advance, because the notes of a batch could not be
/// allocated otherwise. The returned value keeps that memory from being given back.
fn free_memory() -> [Vec<u8>; 2] {
    let pieces: Vec<Vec<u8>> = (0..40).map(|_| vec![1; 16 << 10]).collect();
    let kept = [vec![1; 100], vec![1; 16 << 10]];
    drop(pieces);
    kept
}
