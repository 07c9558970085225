//! Counts of blocks, kept by each heap. Only the sum over all heaps has a meaning, because a block
//! can be counted in by one heap and out by another, after its span changed owner.
#![forbid(unsafe_code)]

use crate::space::Run;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::arena) struct Counts {
    blocks: isize,
    /// The bytes of code, and the granules that they take.
    bytes: isize,
    granules: isize,
    /// The bytes that were flushed from the instruction cache when blocks were published.
    flushed: i64,
}

impl Counts {
    /// Counts a block that is being published.
    pub(in crate::arena) fn publish(&mut self, run: Run, bytes: u32) {
        self.add(run, bytes);
        self.flushed += flushed(run);
    }

    /// Counts a block out that could not be published.
    pub(in crate::arena) fn unpublish(&mut self, run: Run, bytes: u32) {
        self.retire(run, bytes);
        self.flushed -= flushed(run);
    }

    /// Counts a block that moved in from other counts.
    pub(in crate::arena) fn add(&mut self, run: Run, bytes: u32) {
        self.blocks += 1;
        self.bytes += bytes as isize;
        self.granules += run.len() as isize;
    }

    /// Counts a dropped block out.
    pub(in crate::arena) fn retire(&mut self, run: Run, bytes: u32) {
        self.blocks -= 1;
        self.bytes -= bytes as isize;
        self.granules -= run.len() as isize;
    }

    /// Counts a block as shorter, by this number of bytes and granules.
    pub(in crate::arena) fn cut(&mut self, tail: Run, bytes: u32) {
        self.bytes -= bytes as isize;
        self.granules -= tail.len() as isize;
    }

    pub(in crate::arena) fn merge(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
        self.granules += other.granules;
        self.flushed += other.flushed;
    }

    pub(in crate::arena) fn blocks(&self) -> usize {
        self.blocks.max(0).unsigned_abs()
    }

    pub(in crate::arena) fn bytes(&self) -> usize {
        self.bytes.max(0).unsigned_abs()
    }

    pub(in crate::arena) fn granules(&self) -> usize {
        self.granules.max(0).unsigned_abs()
    }

    pub(in crate::arena) fn flushed(&self) -> u64 {
        self.flushed.max(0).unsigned_abs()
    }
}

fn flushed(run: Run) -> i64 {
    i64::from(run.len()) * crate::units::GRANULE as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(counts: Counts) -> (usize, usize, usize, u64) {
        (counts.blocks(), counts.bytes(), counts.granules(), counts.flushed())
    }

    #[test]
    fn each_step_counts_what_it_says() {
        let mut counts = Counts::default();
        counts.publish(Run::new(0, 3), 40);
        counts.publish(Run::new(9, 5), 80);
        assert_eq!(figures(counts), (2, 120, 8, 128));
        counts.retire(Run::new(0, 3), 40);
        assert_eq!(figures(counts), (1, 80, 5, 128), "what was flushed stays so");
        counts.add(Run::new(20, 2), 31);
        assert_eq!(figures(counts), (2, 111, 7, 128));
        counts.unpublish(Run::new(9, 5), 80);
        assert_eq!(figures(counts), (1, 31, 2, 48));
        counts.cut(Run::new(21, 1), 16);
        assert_eq!(figures(counts), (1, 15, 1, 48));
    }

    /// A block that is counted in here and out there may make a part negative. It is shown as zero.
    #[test]
    fn parts_add_up_to_the_whole() {
        let (mut here, mut there) = (Counts::default(), Counts::default());
        here.publish(Run::new(0, 3), 40);
        here.publish(Run::new(3, 1), 16);
        there.unpublish(Run::new(0, 3), 40);
        assert_eq!(figures(there), (0, 0, 0, 0));
        here.merge(there);
        assert_eq!(figures(here), (1, 16, 1, 16));
        here.merge(here);
        assert_eq!(figures(here), (2, 32, 2, 32));
    }
}
