//! Whether a store keeps its blocks apart: every block holds its own stamp until it is dropped.

use anyhow::Result;

use super::Store;
use crate::trace::{Churn, sizes};

/// How many blocks were dropped, and whether the last of them was found changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    pub dropped: usize,
    pub damaged: bool,
}

/// Churns over `live` blocks, each filled with a stamp of its own, until one is found changed.
/// Nothing of it is called.
pub fn verify<S: Store>(mut store: S, live: usize, steps: usize) -> Result<Verdict> {
    let mut stamp = 0_u32;
    let mut publish = |store: &mut S, size: u16| -> Result<(S::Block, u32, u16)> {
        stamp += 1;
        let bytes: Vec<u8> = stamp.to_le_bytes().into_iter().cycle().take(usize::from(size)).collect();
        Ok((store.publish(&bytes)?, stamp, size))
    };
    let mut blocks = Vec::with_capacity(live);
    for size in sizes(live, 5) {
        blocks.push(publish(&mut store, size)?);
    }
    let mut verdict = Verdict::default();
    for step in Churn::new(live, 6).steps(steps) {
        let at = step.victim as usize;
        let (block, stamp, size) = blocks.swap_remove(at);
        // SAFETY: `size` bytes were published there, and the store promises that they stay until
        // `retire`.
        let bytes = unsafe { std::slice::from_raw_parts(store.address(&block), usize::from(size)) };
        let intact = bytes.iter().copied().eq(stamp.to_le_bytes().into_iter().cycle().take(usize::from(size)));
        verdict.dropped += 1;
        if !intact {
            return Ok(Verdict { damaged: true, ..verdict });
        }
        store.retire(block)?;
        blocks.push(publish(&mut store, step.size)?);
    }
    blocks.into_iter().try_for_each(|(block, ..)| store.retire(block))?;
    Ok(verdict)
}

#[cfg(test)]
mod tests {
    use gaia_jit::WxMode;

    use super::*;
    use crate::peers::{asmkit, dynasm, floors, gaia, gaia01, malloc};

    fn keeps_apart<S: Store>(store: S) {
        let verdict = verify(store, 500, 5_000);
        assert!(matches!(verdict, Ok(Verdict { dropped: 5_000, damaged: false })), "{verdict:?}");
    }

    #[test]
    fn trusted_peers_keep_blocks_apart() {
        for mode in [WxMode::Flip, WxMode::DualMap] {
            match gaia::Arena::new(mode, true, 1_000) {
                Ok(arena) => keeps_apart(arena),
                Err(error) => eprintln!("not possible here: {error}"),
            }
        }
        keeps_apart(gaia01::PerFunction);
        keeps_apart(dynasm::PerFunction);
        keeps_apart(floors::Syscalls);
        keeps_apart(malloc::Glibc);
        keeps_apart(malloc::Mimalloc);
        asmkit::ALL.into_iter().for_each(|name| keeps_apart(asmkit::Pool::new(name)));
    }
}
