//! `Batch::link`: calls between the functions of one batch, against the same bytes patched by hand.
//!
//! ```text
//! unlink all --> check: not linked --> link or patch each call (measured) --> check: the expected bytes
//! ```
//!
//! A round links 500 functions with 8 calls each, to functions of the same batch that a seed chose.
//! The unit is nanoseconds for each relocation.
//!
//! The comparison is fair because both contenders write to one batch, in the same order, and must
//! leave the same bytes. The patch by hand checks no range, so it is a floor and the row has no
//! target.
//!
//! At the end the batch is published and every caller is called. The module `arch` has the code for
//! x86-64 and AArch64. On other processors the task fails.

use std::cell::RefCell;

use anyhow::{Result, ensure};
use gaia_jit::{Batch, Reloc, Slot, WxMode};

use crate::code;
use crate::group::{Group, Row, Target, Task, ns_text};
use crate::measure::{Contender, race, time, try_time};
use crate::peers::gaia;
use crate::sample::{Sample, Samples};
use crate::scale::Scale;
use crate::trace::Rng;

pub const GROUP: Group = Group { name: "link", about: "relocations of calls in one batch", tasks, run, judge };

const METRIC: &str = "ns/relocation";
const CASE: &str = "500 functions with 8 calls each";
const OURS: &str = "gaia-jit link";
const BY_HAND: &str = "patched by hand";

fn tasks(_: Scale) -> Vec<Task> {
    vec![Task::new(CASE)]
}

/// A function of calls that are to be relocated.
struct Caller {
    code: Vec<u8>,
    /// Where the relocated bytes are.
    offsets: Vec<usize>,
}

#[cfg(target_arch = "x86_64")]
mod arch {
    use super::*;

    pub const KIND: Reloc = Reloc::X86Call32;
    pub const ADDEND: i64 = -4;

    pub fn caller(calls: usize) -> Caller {
        // The stack is not aligned for what is called, which does not mind.
        let mut code = [0xe8, 0, 0, 0, 0].repeat(calls);
        code.push(0xc3);
        Caller { code, offsets: (0..calls).map(|call| 5 * call + 1).collect() }
    }

    /// What somebody writes who knows that it is in range.
    #[inline]
    pub fn patch(bytes: &mut [u8], place: usize, target: usize) {
        let distance = target.wrapping_sub(place + 4) as i32;
        bytes[..4].copy_from_slice(&distance.to_le_bytes());
    }
}

#[cfg(target_arch = "aarch64")]
mod arch {
    use super::*;

    pub const KIND: Reloc = Reloc::Arm64Call26;
    pub const ADDEND: i64 = 0;

    pub fn caller(calls: usize) -> Caller {
        // `stp x29, x30, [sp, #-16]!`, calls, `ldp x29, x30, [sp], #16`, `ret`.
        let words = [0xa9bf_7bfd].into_iter().chain(vec![0x9400_0000; calls]).chain([0xa8c1_7bfd, 0xd65f_03c0]);
        let code = words.flat_map(u32::to_le_bytes).collect();
        Caller { code, offsets: (0..calls).map(|call| 4 * call + 4).collect() }
    }

    /// What somebody writes who knows that it is in range.
    #[inline]
    pub fn patch(bytes: &mut [u8], place: usize, target: usize) {
        let distance = (target.wrapping_sub(place) >> 2) as u32 & 0x03ff_ffff;
        bytes[..4].copy_from_slice(&(0x9400_0000 | distance).to_le_bytes());
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod arch {
    use super::*;

    /// Refused by the batch, which says so.
    pub const KIND: Reloc = Reloc::X86Call32;
    pub const ADDEND: i64 = 0;

    pub fn caller(calls: usize) -> Caller {
        Caller { code: code::returns(8 * calls), offsets: (0..calls).map(|call| 8 * call).collect() }
    }

    pub fn patch(_: &mut [u8], _: usize, _: usize) {}
}

/// A call: the function that it is in, where, and what it calls.
type Call = (Slot, usize, Slot);

fn by_hand(batch: &mut Batch, &(slot, offset, callee): &Call) {
    let (place, target) = (batch.address(slot).addr() + offset, batch.address(callee).addr());
    arch::patch(&mut batch.bytes_mut(slot)[offset..], place, target);
}

fn by_link(batch: &mut Batch, &(slot, offset, callee): &Call) -> Result<()> {
    Ok(batch.link(slot, offset, arch::KIND, gaia_jit::Target::Slot(callee), arch::ADDEND)?)
}

/// The bytes of all callers.
fn bytes(batch: &mut Batch, callers: &[Slot]) -> Vec<u8> {
    callers.iter().flat_map(|&slot| batch.bytes_mut(slot).to_vec()).collect()
}

/// Puts the callers back as they were before they were linked.
fn unlink(batch: &mut Batch, callers: &[Slot], code: &[u8]) {
    callers.iter().for_each(|&slot| batch.bytes_mut(slot).copy_from_slice(code));
}

fn run(_: &Task, scale: Scale) -> Result<Vec<Sample>> {
    let count = scale.count(500);
    let arena = gaia::Arena::new(WxMode::DualMap, false, 2 * count)?.0;
    let (caller, mut rng, mut batch) = (arch::caller(8), Rng::new(23), arena.batch());
    let push_all = |batch: &mut Batch, code: &[u8]| (0..count).map(|_| batch.push(code)).collect::<Result<Vec<_>, _>>();
    let callers = push_all(&mut batch, &caller.code)?;
    let callees = push_all(&mut batch, &code::returns(16))?;
    let calls_of = |&slot: &Slot| caller.offsets.iter().map(move |&offset| (slot, offset));
    let places: Vec<_> = callers.iter().flat_map(calls_of).collect();
    let calls: Vec<Call> = places.into_iter().map(|(slot, offset)| (slot, offset, callees[rng.below(count)])).collect();

    calls.iter().for_each(|call| by_hand(&mut batch, call));
    let linked = bytes(&mut batch, &callers);
    let batch = RefCell::new(batch);
    let racing = |name, link: &'static dyn Fn(&mut Batch, &[Call]) -> Result<f64>| {
        let (batch, callers, caller, calls, linked) = (&batch, &callers, &caller, &calls, &linked);
        Contender::new(name, move || {
            let batch = &mut *batch.borrow_mut();
            unlink(batch, callers, &caller.code);
            ensure!(bytes(batch, callers) != *linked, "they are linked already");
            let each = link(batch, calls)?;
            ensure!(bytes(batch, callers) == *linked, "the two do not write the same");
            Ok(each)
        })
    };
    let contenders = vec![
        racing(OURS, &|batch, calls| try_time(calls.len(), |i| by_link(batch, &calls[i]))),
        racing(BY_HAND, &|batch, calls| Ok(time(calls.len(), |i| by_hand(batch, &calls[i])))),
    ];
    let samples = race(GROUP.name, CASE, METRIC, scale.rounds(51), contenders);

    let mut batch = batch.into_inner();
    unlink(&mut batch, &callers, &caller.code);
    calls.iter().try_for_each(|call| by_link(&mut batch, call))?;
    let blocks = batch.publish()?;
    for &slot in &callers {
        // SAFETY: it calls functions of the same batch that only return, and returns.
        let function = unsafe { blocks[slot.index()].as_fn::<extern "C" fn()>() };
        function();
    }
    Ok(samples)
}

fn judge(samples: Samples<'_>) -> Vec<Row> {
    let ns = |peer| samples.best(CASE, peer, METRIC);
    vec![
        Row::new(
            "link of a call in a batch, against bytes patched by hand",
            Target::None,
            ns(OURS) / ns(BY_HAND),
            "x by hand",
        )
        .ours(ns_text(ns(OURS)))
        .floor(format!("{} {BY_HAND}", ns_text(ns(BY_HAND)))),
    ]
}
