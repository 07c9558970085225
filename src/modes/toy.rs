//! A mode for one test, which shows how to add a mode. It is private memory that is executable from
//! the start, and everything is written through the kernel.

use std::ops::Range;

use super::memory::CodeMemory;
use super::mode::Mode;
use super::rules::{Readers, Rules, Trims, WayIn};
use super::wx_mode::WxMode;
use super::{padded, probe};
use crate::Error;
use crate::region::{Plan, Region, refusal};
use crate::sys::{self, Access, KernelWriter, Os};

struct Toy {
    writer: KernelWriter,
}

pub(super) fn build(os: &'static dyn Os, plan: &Plan) -> Result<CodeMemory, Error> {
    let writer = os.open_kernel_writer().map_err(refusal("Toy"))?;
    let place = plan.place(os)?;
    let reservation = os.reserve(&place).map_err(plan.out_of_reach(&place))?;
    let memory = CodeMemory::new(Region::new(os, plan, &place, reservation), Box::new(Toy { writer }));
    // SAFETY: pages of a reservation that nobody uses.
    unsafe { os.protect(memory.span(0..memory.len()), Access::ReadExecute) }.map_err(refusal("Toy"))?;
    probe::rewriting(&memory, "Toy").map_err(|refused| Error::unsupported("Toy", refused.to_string()))?;
    Ok(memory)
}

impl Mode for Toy {
    fn mode(&self) -> WxMode {
        WxMode::Toy
    }

    fn rules(&self, _region: &Region) -> Rules {
        Rules {
            fills_holes: true,
            opens_pages: false,
            way_in: WayIn::WriteAtLast,
            trims: Trims::UnlessSealed,
            collapses_in_steps: false,
            prefaults: false,
            readers: Readers::All,
        }
    }

    unsafe fn write(&self, region: &Region, offset: usize, bytes: &[u8]) -> Result<(), Error> {
        // SAFETY: inside the private view. The rest is passed on to the caller.
        unsafe { region.os().kernel_write(&self.writer, region.span(offset..offset).start, bytes)? };
        Ok(())
    }

    unsafe fn fill(&self, region: &Region, offset: usize, code: &[u8], padding: &[u8]) -> Result<(), Error> {
        // SAFETY: parts of the range that is passed on to the caller.
        padded::write(offset, code, padding, region.poisons(), |at, bytes| unsafe { self.write(region, at, bytes) })
    }

    unsafe fn decommit(&self, region: &Region, range: Range<usize>) -> sys::Result<()> {
        // SAFETY: passed on to the caller.
        unsafe { region.os().decommit(region.span(range)) }
    }
}

#[test]
fn a_mode_of_one_file_does_all_that_an_arena_does() {
    use crate::tests::common::{asm, call, not_run};
    let builder = crate::CodeArena::builder().capacity(1 << 20).mode(WxMode::Toy).poison(true).keep_free(64 << 10);
    let arena = match builder.build() {
        Err(Error::Unsupported { why, .. }) => return not_run("a_mode_of_one_file_does_all_that_an_arena_does", &why),
        arena => arena.unwrap(),
    };
    for round in 0..3 {
        let mut batch = arena.batch();
        (0..200).for_each(|n| assert!(batch.push(&asm::padded(n, 500 + 10 * round)).is_ok()));
        let mut blocks = batch.publish().unwrap();
        blocks.extend((200..300).map(|n| arena.publish(&asm::padded(n, 300)).unwrap()));
        assert!((0..).zip(&blocks).all(|(n, block)| call(block) == n));
        // SAFETY: no thread runs it meanwhile.
        unsafe { blocks[7].patch(0, &asm::constant(1007)) }.unwrap();
        assert_eq!((call(&blocks[7]), arena.lookup(blocks[7].as_ptr()).unwrap().len), (1007, blocks[7].len()));
        blocks.retain(|block| block.len() == 300);
        assert!(arena.publish(&[0xc3; 1 << 20][..]).is_err());
        assert_eq!(arena.stats().live_blocks, 100);
    }
    assert!(arena.trim().is_ok());
    assert_eq!((arena.stats().free_bytes, arena.stats().resident_bytes), (1 << 20, 0));
}
