//! Memory for modules, under a system that refuses any one call.

use std::ptr::NonNull;

use super::faulty::Faulty;
use crate::arena::Notes;
use crate::icache::RETURN_1_2;
use crate::sys::{Native, Os};
use crate::units::GRANULE;
use crate::{CodeArena, Error};

/// What a module does: data of both kinds and code, finalized twice, then freed. Errors do not end it, but are counted.
fn life(arena: &CodeArena, page: usize) -> usize {
    let mut errors = 0;
    let mut note = |error: Error| {
        assert!(matches!(error, Error::OperatingSystem { .. }), "{error:?}");
        errors += 1;
    };
    let (mut code, mut data, mut constants) = (arena.in_place(), arena.data_pages(), arena.data_pages());
    let mut blocks = Vec::new();
    for (round, function) in RETURN_1_2.iter().enumerate() {
        let mut fill = |at: Result<NonNull<u8>, Error>, bytes: &[u8]| match at {
            // SAFETY: reserved for as many bytes.
            Ok(at) => unsafe { at.copy_from_nonoverlapping(NonNull::from(bytes).cast(), bytes.len()) },
            Err(error) => note(error),
        };
        fill(data.reserve(page + 1, 64), &[0xA5; 100]);
        fill(constants.reserve(8, 8), &[0x5A; 8]);
        fill(code.reserve(function.len(), 16, round as u64), function);
        fill(code.reserve(3 * page, GRANULE, round as u64), function);
        let _ = constants.make_read_only().map_err(&mut note);
        if let Err(error) = code.publish(&Notes::default(), &mut blocks) {
            note(error);
            // Once more, as nothing was lost.
            code.publish(&Notes::default(), &mut blocks).unwrap();
        }
        assert_eq!(code.len(), 0);
    }
    for block in &blocks {
        // SAFETY: all the code begins with such a function.
        let f = unsafe { block.as_fn::<extern "C" fn() -> u32>() };
        assert_eq!(u64::from(f()), block.tag() + 1);
    }
    errors
}

#[test]
fn any_one_call_is_refused_and_nothing_is_lost_but_pages_that_could_not_be_wiped() {
    let system = Faulty::leaked();
    let page = system.page_size();
    let mut lost = 0;
    for n in 0.. {
        let arena = CodeArena::builder().capacity(1 << 20).os(system).build().unwrap();
        system.fail_nth(n);
        let errors = life(&arena, page);
        let failed = system.has_failed();
        system.heal();
        // Frees what was stranded.
        let _ = arena.trim().unwrap();
        let stats = arena.stats();
        assert_eq!((stats.live_blocks, stats.batch_bytes), (0, 0), "call {n}: {stats}");
        assert_eq!(stats.free_bytes + stats.data_bytes, stats.capacity);
        lost += stats.data_bytes;
        if !failed {
            assert_eq!((errors, stats.data_bytes, stats.resident_bytes), (0, 0, 0));
            break;
        }
    }
    // To lose a page two calls have to fail.
    assert_eq!(lost, 0);
    let arena = CodeArena::builder().capacity(1 << 20).os(system).build().unwrap();
    let mut data = arena.data_pages();
    data.reserve(1, 1).unwrap();
    system.refuse(&["decommit", "open"]);
    drop(data);
    system.heal();
    assert_eq!(arena.stats().data_bytes, page, "what could not be wiped never becomes executable");
}

/// The system may have changed a part of the pages when it refuses to change all.
#[test]
fn pages_that_could_not_be_closed_are_not_used_further() {
    let system = Faulty::leaked();
    let page = system.page_size();
    let arena = CodeArena::builder().capacity(1 << 20).os(system).build().unwrap();
    let (mut code, mut constants) = (arena.in_place(), arena.data_pages());
    let page_of = |at: NonNull<u8>| at.addr().get() / page;
    let first = [code.reserve(16, 16, 0).unwrap(), constants.reserve(16, 16).unwrap()].map(page_of);
    system.refuse(&["seal"]);
    assert!(code.publish(&Notes::default(), &mut Vec::new()).is_err() && constants.make_read_only().is_err());
    system.heal();
    let second = [code.reserve(16, 16, 0).unwrap(), constants.reserve(16, 16).unwrap()].map(page_of);
    assert!(first[0] != second[0] && first[1] != second[1], "{first:?} {second:?}");
    let mut blocks = Vec::new();
    assert!(code.publish(&Notes::default(), &mut blocks).is_ok() && constants.make_read_only().is_ok());
    assert_eq!(blocks.len(), 2);
}

#[test]
fn data_is_wiped_before_its_page_is_executable_again() {
    let system = Faulty::leaked();
    for refused in [&[][..], &["decommit"]] {
        let arena = CodeArena::builder().capacity(1 << 20).os(system).build().unwrap();
        if !arena.stats().fills_holes {
            // Free pages cannot be read there.
            return;
        }
        let mut data = arena.data_pages();
        let at = data.reserve(1000, 8).unwrap();
        // SAFETY: reserved for as many bytes.
        unsafe { at.write_bytes(0xA5, 1000) };
        system.refuse(refused);
        drop(data);
        system.heal();
        assert_eq!((arena.stats().data_bytes, arena.stats().batch_bytes), (0, 0));
        // SAFETY: free pages are readable here, and nobody writes to them.
        let left = unsafe { std::slice::from_raw_parts(at.as_ptr(), Native.page_size()) };
        assert!(!left.contains(&0xA5));
    }
}
