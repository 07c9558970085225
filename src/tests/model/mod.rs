//! Programs of operations, each run against a plain model of what it should do.
//!
//! There is one way from bytes to a program ([`Arbitrary`]) and one interpreter for each subject.
//! The property tests here feed them random bytes, the fuzzer feeds them bytes that it chose by
//! what they reached, and its seeds are replayed here as well.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "test code")]

pub mod arena;
pub mod batch;
pub mod jit_memory;
#[cfg(test)]
mod properties;

pub use crate::space::model as space;

use arbitrary::{Result, Unstructured};

use super::common::{asm, call_at, modes};
use super::faulty::Faulty;
use crate::{ArenaBuilder, CodeArena, WxMode};

/// The longest program.
const MOST_OPS: usize = 400;

/// Operations until the bytes are used up.
pub(crate) fn ops<'a, Op: arbitrary::Arbitrary<'a>>(u: &mut Unstructured<'a>) -> Result<Vec<Op>> {
    let mut ops = Vec::new();
    while !u.is_empty() && ops.len() < MOST_OPS {
        ops.push(u.arbitrary()?);
    }
    Ok(ops)
}

/// Mostly functions, at times whole pages, at times more than a batch stages.
fn len(u: &mut Unstructured<'_>) -> Result<usize> {
    Ok(match u.int_in_range(0..=9)? {
        0..=6 => u.int_in_range(1..=1_031)?,
        7 | 8 => u.int_in_range(1_032..=9_000)?,
        _ => u.int_in_range(60_000..=90_000)?,
    })
}

/// 16 to 4,096, the small ones more often.
fn align(u: &mut Unstructured<'_>) -> Result<usize> {
    let shift = u.int_in_range(0..=15)?;
    Ok(16 << if shift > 8 { 0 } else { shift })
}

fn granules(len: usize) -> usize {
    len.next_multiple_of(16)
}

/// Callable code that returns `n`, and bytes that differ from one `n` to the next.
fn code(n: u32, len: usize) -> Vec<u8> {
    let head = asm::constant(n);
    let mut bytes = vec![n as u8; len.max(head.len())];
    // Few single steps: they are slow under sanitizers.
    for (index, chunk) in bytes.chunks_mut(64).enumerate() {
        chunk[0] = index.wrapping_add(n as usize) as u8;
    }
    bytes[..head.len()].copy_from_slice(&head);
    bytes
}

/// What an arena is to be like.
#[derive(Clone, Copy, Debug)]
struct Setting {
    /// Of the modes that there are here.
    mode: u8,
    poison: bool,
    huge_pages: bool,
    /// Without the kernel write.
    no_writer: bool,
    capacity: usize,
}

impl Setting {
    fn arbitrary(u: &mut Unstructured<'_>, capacities: &[usize]) -> Result<Self> {
        Ok(Self {
            mode: u.arbitrary()?,
            poison: u.arbitrary()?,
            huge_pages: u.ratio(1, 4)?,
            no_writer: u.ratio(1, 4)?,
            capacity: *u.choose(capacities)?,
        })
    }

    /// An arena, and the system it lives on.
    fn build(self) -> (CodeArena, &'static Faulty) {
        let system = system();
        system.refuse(if self.no_writer { &["writer"] } else { &[] });
        let arena = self.builder().os(system).build();
        system.heal();
        (arena.unwrap(), system)
    }

    fn builder(self) -> ArenaBuilder {
        let modes = all_modes();
        let mode = modes[usize::from(self.mode) % modes.len()];
        CodeArena::builder().capacity(self.capacity).mode(mode).poison(self.poison).huge_pages(self.huge_pages)
    }
}

/// Every mode that this system has, found out once.
fn all_modes() -> &'static [WxMode] {
    static MODES: std::sync::OnceLock<Vec<WxMode>> = std::sync::OnceLock::new();
    MODES.get_or_init(|| modes().collect())
}

/// This thread's system: it passes everything on until it is told to fail, and knows what is
/// mapped.
fn system() -> &'static Faulty {
    thread_local!(static SYSTEM: &'static Faulty = Faulty::leaked());
    SYSTEM.with(|system| {
        system.heal();
        system.take_log();
        *system
    })
}
