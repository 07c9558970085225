//! Given memory beside data, under a system that counts what it is asked.

use std::ptr::NonNull;

use super::common::{asm, call};
use super::faulty::Faulty;
use crate::arena::DataKind;
use crate::sys::{Access, Native, Os, Place, Span, release_or_park};
use crate::{CodeArena, Error, GivenMemory, GivenWriter};

const LEN: usize = 1 << 20;

/// Code and data in one reservation, and a writable view of the code. `None` where there are no two
/// views.
fn views() -> Option<[Span; 4]> {
    if Native.commits() {
        return None;
    }
    let place = Place::new(LEN, LEN, Native.page_size())?;
    let memory = Native.share(LEN).ok()?;
    let writable = Native.map_writable(&memory, LEN).ok()?;
    let all = Native.map_executable(&memory, &place, Access::ReadExecute).ok()?;
    let data = all.data(&place);
    // SAFETY: pages of the reservation that nobody uses yet.
    unsafe { Native.protect(data, Access::ReadWrite) }.ok()?;
    Some([all, all.code(&place), writable, data])
}

#[test]
fn data_is_handed_out_and_no_call_is_made() {
    for with_function in [false, true] {
        let Some([all, code, writable, data]) = views() else {
            return super::common::not_run("data_is_handed_out_and_no_call_is_made", "no two views here");
        };
        let alias = writable.address();
        let writer = match with_function {
            false => GivenWriter::Alias(writable.start),
            true => GivenWriter::Copy(Box::new(move |offset, bytes: &[u8]| {
                let to = std::ptr::with_exposed_provenance_mut::<u8>(alias + offset);
                // SAFETY: inside of the view, whose bytes the arena owns.
                unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) };
                Ok(())
            })),
        };
        writable.start.as_ptr().expose_provenance();
        let memory = GivenMemory {
            executable: NonNull::slice_from_raw_parts(code.start, LEN),
            writer,
            data: Some(NonNull::slice_from_raw_parts(data.start, LEN - 1)),
            release: Some(Box::new(move || {
                for view in [all, writable] {
                    // SAFETY: mapped by `views`, and nobody uses it any more.
                    unsafe { release_or_park(&Native, view) };
                }
            })),
        };
        let system = Faulty::leaked();
        // SAFETY: mapped by `views` until `release` was called, and used by nobody else.
        let arena = unsafe { CodeArena::builder().os(system).build_over(memory) }.unwrap();
        assert_eq!(arena.stats().data_capacity, LEN - Native.page_size());
        assert!(arena.contains(data.start.as_ptr()));
        for kind in [DataKind::Writable, DataKind::Constant] {
            let mut pages = arena.data_pages(kind);
            let at = pages.reserve(5_000, 64).unwrap();
            // SAFETY: reserved for as many bytes.
            unsafe { at.write_bytes(7, 5_000) };
            pages.make_read_only().unwrap();
            // What says that protections never change: it is still writable.
            // SAFETY: as above.
            unsafe { at.write_bytes(8, 5_000) };
            assert!(arena.stats().data_bytes >= 5_000);
            assert!(matches!(pages.reserve(LEN - Native.page_size(), 16), Err(Error::DataFull { .. })));
            drop(pages);
            assert_eq!((arena.stats().data_bytes, arena.trim().unwrap()), (0, 0));
        }
        let block = arena.publish(&asm::constant(3)).unwrap();
        assert_eq!(call(&block), 3);
        assert!(matches!(arena.check_in_place("a module"), Err(Error::Unsupported { what: "a module", .. })));
        drop((block, arena));
        assert!(system.take_log().is_empty());
    }
}
