//! Batches: functions that call each other before any of them is published, and the way back when a
//! batch is given up or the system refuses any of its calls.
//!
//! ```text
//! push, reserve, fill, link, set_tag --> Publish --> live blocks --> Drop
//!                                   `--> Abandon, or a Publish that is refused: nothing is found, no space is taken
//! ```
//!
//! The model knows the bytes and the tag of each function, what it returns, and which function it
//! jumps to. At each `Check` and after each publication it compares:
//!
//! - the figures of the arena, which must add up to its capacity,
//! - the bytes, the lookup and the tag of each live block,
//! - the results of live functions, through their jumps,
//! - the bytes of each slot of the open batch.
//!
//! An error of the system is allowed only while a refusal may come. Links never form a circle,
//! because a call would not return. At the end all space is one hole and nothing is mapped.

use std::collections::BTreeMap;

use arbitrary::{Arbitrary, Result, Unstructured};

use super::super::faulty::Faulty;
use super::{Setting, align, asm, call_at, code, len, ops};
use crate::tests::gives_back;
use crate::{Batch, Code, CodeArena, CodeBlock, Error, Slot};

#[derive(Clone, Debug)]
pub struct Program {
    setting: Setting,
    ops: Vec<Op>,
}

#[derive(Clone, Debug)]
enum Op {
    Push {
        len: usize,
        align: usize,
    },
    PushMany {
        count: usize,
        len: usize,
    },
    Reserve {
        len: usize,
        align: usize,
    },
    /// Gives a slot code anew.
    Fill {
        slot: usize,
    },
    /// Makes a slot a jump to another slot of its batch.
    Link {
        from: usize,
        to: usize,
    },
    /// Makes a slot a jump to a block that is live.
    LinkOut {
        from: usize,
        to: usize,
    },
    SetTag {
        slot: usize,
        tag: u64,
    },
    Publish,
    Abandon,
    Drop {
        pick: usize,
    },
    DropSome {
        keep: usize,
    },
    Trim,
    /// The system refuses one call, after this many.
    Fail {
        after: usize,
    },
    /// The system refuses all calls of a kind.
    Refuse {
        call: usize,
    },
    Heal,
    Check,
}

/// What a batch asks of the system.
const CALLS: [&str; 6] = ["open", "seal", "write", "decommit", "decommit shared", "populate"];

impl<'a> Arbitrary<'a> for Program {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self { setting: Setting::arbitrary(u, &[128 << 10, 512 << 10, 6 << 20])?, ops: ops(u)? })
    }
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = u.int_in_range(0..=31u8)?;
        let mut pick = || u.arbitrary::<u8>().map(usize::from);
        Ok(match kind {
            0..=5 => Self::Push { len: len(u)?, align: align(u)? },
            6 => Self::PushMany { count: u.int_in_range(0..=120)?, len: len(u)? },
            7 | 8 => Self::Reserve { len: len(u)?, align: align(u)? },
            9 | 10 => Self::Fill { slot: pick()? },
            11..=14 => Self::Link { from: pick()?, to: pick()? },
            15 => Self::LinkOut { from: pick()?, to: pick()? },
            16 => Self::SetTag { slot: pick()?, tag: u.int_in_range(0..=u64::MAX)? },
            17..=20 => Self::Publish,
            21 => Self::Abandon,
            22 | 23 => Self::Drop { pick: pick()? },
            24 => Self::DropSome { keep: u.int_in_range(1..=5)? },
            25 => Self::Trim,
            26 | 27 => Self::Fail { after: u.int_in_range(0..=6)? },
            28 => Self::Refuse { call: u.int_in_range(0..=CALLS.len() - 1)? },
            29 => Self::Heal,
            _ => Self::Check,
        })
    }
}

/// What a function does, by the numbers of slots, which blocks keep.
#[derive(Clone, Copy)]
enum Body {
    Nothing,
    Returns(u32),
    JumpsTo(usize),
}

struct Open {
    slot: Slot,
    number: usize,
    bytes: Vec<u8>,
    body: Body,
    tag: u64,
}

struct Live {
    block: CodeBlock,
    bytes: Vec<u8>,
    body: Body,
}

struct Model<'a> {
    arena: &'a CodeArena,
    system: &'static Faulty,
    batch: Option<Batch>,
    slots: Vec<Open>,
    live: BTreeMap<usize, Live>,
    /// Slots that there ever were.
    numbers: usize,
    /// Refusals may come: one, or any number.
    once: bool,
    always: bool,
}

impl Program {
    pub fn run(&self) {
        let (arena, system) = self.setting.build();
        let mut model = Model {
            arena: &arena,
            system,
            batch: None,
            slots: Vec::new(),
            live: BTreeMap::new(),
            numbers: 0,
            once: false,
            always: false,
        };
        for op in &self.ops {
            model.apply(op);
            model.once &= !system.has_failed();
        }
        model.apply(&Op::Heal);
        model.check();
        model.apply(&Op::Publish);
        model.check();
        model.live.clear();
        model.check();
        drop(model);
        arena.trim().unwrap();
        let stats = arena.stats();
        assert_eq!((stats.free_bytes, stats.largest_hole), (stats.capacity, stats.capacity));
        assert!(stats.resident_bytes == 0 || !gives_back(&arena), "{stats}");
        drop(arena);
        assert_eq!(system.mapped(), 0);
    }
}

impl Model<'_> {
    /// The outcome of a call that a full arena or a refusal of the system may fail.
    fn succeeds<T>(&self, outcome: std::result::Result<T, Error>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(Error::OperatingSystem { .. }) if self.once || self.always => None,
            Err(error @ Error::OperatingSystem { .. }) => panic!("{error}: nothing was refused"),
            Err(_) => None,
        }
    }

    fn check(&mut self) {
        let stats = self.arena.stats();
        let bytes = self.live.values().map(|live| live.bytes.len()).sum::<usize>();
        assert_eq!((stats.live_blocks, stats.live_bytes), (self.live.len(), bytes));
        if !self.once && !self.always {
            assert_eq!(stats.pending_blocks, 0, "nothing is left that waits");
        }
        let known = stats.live_bytes + stats.padding_bytes + stats.pending_bytes + stats.batch_bytes;
        assert_eq!(known + stats.free_bytes, stats.capacity);
        for (number, live) in &self.live {
            assert_eq!(&live.block.as_bytes()[..], &live.bytes[..]);
            let hit = self.arena.lookup(live.block.as_ptr()).unwrap();
            assert_eq!((hit.start, hit.len, hit.tag), (live.block.as_ptr(), live.bytes.len(), live.block.tag()));
            if let Some(value) = self.value(*number) {
                assert_eq!(call_at(live.block.as_ptr()), value);
            }
        }
        if let Some(batch) = &mut self.batch {
            assert_eq!(batch.len(), self.slots.len());
            for open in &self.slots {
                assert_eq!(batch.bytes_mut(open.slot), open.bytes);
            }
        }
    }

    /// What a live function returns, if it can be called.
    fn value(&self, number: usize) -> Option<u32> {
        match self.live.get(&number)?.body {
            Body::Nothing => None,
            Body::Returns(value) => Some(value),
            Body::JumpsTo(next) => self.value(next),
        }
    }

    /// Whether a slot's jumps lead to `to`.
    fn leads(&self, from: usize, to: usize) -> bool {
        let open = self.slots.iter().find(|open| open.number == from);
        from == to || matches!(open.map(|open| open.body), Some(Body::JumpsTo(next)) if self.leads(next, to))
    }

    fn push(&mut self, len: usize, align: usize, filled: bool) {
        let (number, value) = (self.numbers, self.numbers as u32 % 32_768);
        let bytes = code(value, len);
        let batch = self.batch.get_or_insert_with(|| self.arena.batch());
        let pushed = match filled {
            true => batch.push(Code::new(&bytes).align(align).tag(number as u64)),
            false => batch.reserve(bytes.len(), align),
        };
        if let Some(slot) = self.succeeds(pushed) {
            let Some(batch) = &mut self.batch else { return };
            assert_eq!((slot.index(), batch.address(slot).addr() % align), (self.slots.len(), 0));
            let held = batch.bytes_mut(slot).to_vec();
            assert!(!filled || held == bytes);
            let body = if filled { Body::Returns(value) } else { Body::Nothing };
            let tag = if filled { number as u64 } else { 0 };
            self.slots.push(Open { slot, number, bytes: held, body, tag });
            self.numbers += 1;
        }
    }

    fn write(&mut self, slot: usize, bytes: &[u8], body: Body) {
        let (Some(open), Some(batch)) = (self.slots.get_mut(slot), &mut self.batch) else { return };
        if bytes.len() > open.bytes.len() {
            return;
        }
        batch.bytes_mut(open.slot)[..bytes.len()].copy_from_slice(bytes);
        open.bytes[..bytes.len()].copy_from_slice(bytes);
        open.body = body;
    }

    fn link(&mut self, from: usize, to: usize, target: *const u8) {
        let (Some(open), Some(batch)) = (self.slots.get(from), &self.batch) else { return };
        if self.leads(to, open.number) {
            return;
        }
        let jump = asm::tail_call(batch.address(open.slot), target);
        self.write(from, &jump, Body::JumpsTo(to));
    }

    fn publish(&mut self) {
        let Some(batch) = self.batch.take() else { return };
        let slots = std::mem::take(&mut self.slots);
        let addresses: Vec<_> = slots.iter().map(|open| batch.address(open.slot)).collect();
        let outcome = batch.publish();
        if let Some(blocks) = self.succeeds(outcome) {
            assert_eq!(blocks.iter().map(CodeBlock::as_ptr).collect::<Vec<_>>(), addresses);
            for (block, open) in blocks.into_iter().zip(slots) {
                assert_eq!(block.tag(), open.tag);
                self.live.insert(open.number, Live { block, bytes: open.bytes, body: open.body });
            }
        } else {
            // All or nothing.
            for address in addresses {
                assert!(self.arena.lookup(address).is_none());
            }
        }
        self.check();
    }

    fn apply(&mut self, op: &Op) {
        let slots = self.slots.len().max(1);
        match *op {
            Op::Push { len, align } => self.push(len, align, true),
            Op::PushMany { count, len } => (0..count).for_each(|_| self.push(len, 16, true)),
            Op::Reserve { len, align } => self.push(len, align, false),
            Op::Fill { slot } => {
                let value = self.numbers as u32 % 32_768;
                self.write(slot % slots, &asm::constant(value), Body::Returns(value));
            }
            Op::Link { from, to } => {
                let (Some(to), Some(batch)) = (self.slots.get(to % slots), &self.batch) else { return };
                self.link(from % slots, to.number, batch.address(to.slot));
            }
            Op::LinkOut { from, to } => {
                let Some((number, live)) = self.live.iter().nth(to % self.live.len().max(1)) else { return };
                self.link(from % slots, *number, live.block.as_ptr());
            }
            Op::SetTag { slot, tag } => {
                let (Some(open), Some(batch)) = (self.slots.get_mut(slot % slots), &mut self.batch) else { return };
                batch.set_tag(open.slot, tag);
                open.tag = tag;
            }
            Op::Publish => self.publish(),
            Op::Abandon => {
                self.batch = None;
                self.slots.clear();
            }
            Op::Drop { pick } => {
                let number = self.live.keys().nth(pick % self.live.len().max(1)).copied();
                number.map(|number| self.live.remove(&number));
            }
            Op::DropSome { keep } => {
                let mut index = 0;
                self.live.retain(|_, _| {
                    index += 1;
                    index % keep == 0
                });
            }
            Op::Trim => drop(self.succeeds(self.arena.trim())),
            Op::Fail { after } => {
                self.system.fail_nth(after);
                self.once = true;
            }
            Op::Refuse { call } => {
                self.system.refuse(&[CALLS[call]]);
                self.always = true;
            }
            Op::Heal => {
                self.system.heal();
                (self.once, self.always) = (false, false);
            }
            Op::Check => self.check(),
        }
    }
}
