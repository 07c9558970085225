//! Operations that are never right.

use super::Model;
use crate::{Code, Error};

impl Model<'_> {
    /// What is never right, and changes nothing.
    pub(super) fn refused(&mut self, kind: u8) {
        let arena = self.handle();
        let mut batch = arena.batch();
        match kind % 6 {
            0 => {
                assert!(matches!(arena.publish(&[]), Err(Error::ZeroSize)));
                assert!(matches!(batch.reserve(0, 16), Err(Error::ZeroSize)));
            }
            1 => {
                for align in [0, 3, 4 << 20, usize::MAX] {
                    assert!(matches!(batch.reserve(1, align), Err(Error::BadAlignment { .. })));
                    assert!(matches!(arena.publish(Code::new(&[0]).align(align)), Err(Error::BadAlignment { .. })));
                }
            }
            2 => {
                for len in [self.capacity + 1, isize::MAX as usize, usize::MAX] {
                    assert!(matches!(batch.reserve(len, 16), Err(Error::TooLarge { .. })));
                }
            }
            3 => {
                // SAFETY: nothing of this arena begins there, which is an error.
                assert!(matches!(unsafe { arena.from_raw(std::ptr::null()) }, Err(Error::NotInArena { .. })));
            }
            4 => {
                if let Some(live) = self.live.iter().find(|live| live.bytes.len() > 1) {
                    // SAFETY: nothing begins in the middle of a block, which is an error.
                    let outcome = unsafe { arena.from_raw(live.owner.address().wrapping_add(1)) };
                    assert!(matches!(outcome, Err(Error::NotInArena { .. })));
                }
            }
            _ => {
                // A slot of another batch.
                if let Some((slot, ..)) = self.open.iter().find_map(|open| open.slots.first()) {
                    batch.set_tag(*slot, 1);
                    batch.set_name(*slot, "not mine");
                    assert!(batch.address(*slot).is_null() && batch.bytes_mut(*slot).is_empty());
                }
                assert!(batch.publish().unwrap().is_empty());
            }
        }
    }
}
