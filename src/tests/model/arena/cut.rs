//! Functions whose length is known late: written at their address, or shrunk once they are live.

use super::super::granules;
use super::{Live, Model, Owner, Waiting};
use crate::{Error, Reserve};

impl Model<'_> {
    pub(super) fn shrink(&mut self, pick: usize, len: usize) {
        let guards: Vec<u64> = self.guards.iter().map(|(number, _)| *number).collect();
        let Some(live) = self.live.get_mut(pick) else { return };
        let Owner::Block(block) = &mut live.owner else { return };
        let old = live.bytes.len();
        match block.shrink(len) {
            Err(Error::ZeroSize) => return assert_eq!(len, 0),
            Err(Error::PastCapacity { .. }) => return assert!(len > old),
            outcome => outcome.unwrap(),
        }
        live.bytes.truncate(len);
        live.number = live.number.filter(|_| len >= crate::tests::common::asm::constant(0).len());
        let (start, tail) = (live.owner.address().addr() + granules(len), granules(old) - granules(len));
        if tail > 0 && !guards.is_empty() {
            self.waiting.push(Waiting { start, len: tail, guards });
        }
    }

    pub(super) fn publish_with(&mut self, len: usize, align: usize, used: usize) {
        let (number, bytes) = self.code(used);
        let outcome = self.handle().publish_with(Reserve::new(len).align(align), |address, place| {
            assert_eq!((address.addr() % align, place.len()), (0, len));
            if let Some(place) = place.get_mut(..bytes.len()) {
                place.copy_from_slice(&bytes);
            }
            Ok(bytes.len())
        });
        match outcome {
            Ok(block) => self.live.push(Live { owner: Owner::Block(block), bytes, number: Some(number), tag: 0 }),
            Err(Error::ZeroSize) => assert_eq!(len, 0),
            Err(Error::PastCapacity { .. }) => assert!(bytes.len() > len),
            Err(Error::TooLarge { .. }) => assert!(len > self.capacity),
            Err(error) => self.check_full(granules(len), align, &error),
        }
    }
}
