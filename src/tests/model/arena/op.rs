//! What can be done to an arena, and how bytes say so.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::super::{align, len};

#[derive(Clone, Debug)]
pub(super) enum Op {
    Publish {
        len: usize,
        align: usize,
        tag: u64,
    },
    Open,
    Push {
        batch: usize,
        len: usize,
        align: usize,
    },
    PushMany {
        batch: usize,
        count: usize,
        len: usize,
    },
    Reserve {
        batch: usize,
        len: usize,
        align: usize,
    },
    Finish {
        batch: usize,
        publish: bool,
    },
    Drop {
        pick: usize,
    },
    DropSome {
        keep: usize,
    },
    Pin,
    Unpin {
        pick: usize,
    },
    Trim,
    Collapse,
    IntoRaw {
        pick: usize,
    },
    FromRaw {
        pick: usize,
    },
    Patch {
        pick: usize,
        offset: usize,
        len: usize,
    },
    Shrink {
        pick: usize,
        len: usize,
    },
    PublishWith {
        len: usize,
        align: usize,
        used: usize,
    },
    Lookup {
        offset: usize,
    },
    Refused {
        kind: u8,
    },
    Clone,
    DropClone,
    /// What comes next is done by another heap.
    Heap {
        index: usize,
    },
    Check,
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let kind = u.int_in_range(0..=46u8)?;
        let mut pick = || u.arbitrary::<u8>().map(usize::from);
        Ok(match kind {
            0..=8 => Self::Publish { len: len(u)?, align: align(u)?, tag: u.int_in_range(0..=u64::MAX)? },
            9 => Self::Open,
            10..=12 => Self::Push { batch: pick()?, len: len(u)?, align: align(u)? },
            13 => Self::PushMany { batch: pick()?, count: u.int_in_range(0..=100)?, len: len(u)? },
            14 => Self::Reserve { batch: pick()?, len: len(u)?, align: align(u)? },
            15 | 16 => Self::Finish { batch: pick()?, publish: true },
            17 => Self::Finish { batch: pick()?, publish: false },
            18..=23 => Self::Drop { pick: pick()? },
            24 => Self::DropSome { keep: u.int_in_range(1..=5)? },
            25 => Self::Pin,
            26 | 27 => Self::Unpin { pick: pick()? },
            28 => Self::Trim,
            29 => Self::Collapse,
            30 => Self::IntoRaw { pick: pick()? },
            31 => Self::FromRaw { pick: pick()? },
            32 => Self::Patch { pick: pick()?, offset: u.int_in_range(0..=1_100)?, len: u.int_in_range(0..=300)? },
            33 | 34 => Self::Lookup { offset: u.int_in_range(0..=2 << 20)? },
            35 => Self::Refused { kind: u.arbitrary()? },
            36 => Self::Clone,
            37 => Self::DropClone,
            41 | 42 => Self::Shrink { pick: pick()?, len: len(u)? },
            43 | 44 => Self::PublishWith { len: len(u)?, align: align(u)?, used: len(u)? },
            38..=40 => Self::Heap { index: u.int_in_range(0..=3)? },
            _ => Self::Check,
        })
    }
}
