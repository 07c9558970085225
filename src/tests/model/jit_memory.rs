//! Single blocks: contents, length and entry points, whatever is called and whatever fails.
//!
//! ```text
//! operation --> JitMemory (one call may be refused) --.
//!          `--> model: bytes, length, functions -------+--> check: the same bytes
//! ```
//!
//! The model has a list of functions with their offsets. A write removes those that it overlaps,
//! because they cannot be called any more. A refused write leaves the old length and bytes. On
//! Linux no page may be writable and executable.
//!
//! | operation | compared with the model |
//! |---|---|
//! | `Write`, `WriteAt` | the offset, or `PastCapacity` if the bytes do not fit |
//! | `MakeExecutable` | the result of every function within the length |
//! | `Entry`, `EntryAnywhere` | the result or the address, or `PastCapacity` past the length |
//!
//! At the end every function is called, and nothing stays mapped.

use arbitrary::{Arbitrary, Result, Unstructured};

use super::{asm, call_at, ops, system};
use crate::{Error, JitMemory};

#[derive(Clone, Debug)]
pub struct Program {
    capacity: usize,
    ops: Vec<Op>,
}

#[derive(Clone, Debug)]
enum Op {
    Write {
        n: u32,
        len: usize,
    },
    WriteAt {
        offset: usize,
        n: u32,
        len: usize,
    },
    MakeExecutable,
    MakeWritable,
    Entry {
        pick: usize,
    },
    EntryAnywhere {
        offset: usize,
    },
    Clear,
    /// The system refuses one call, after this many.
    Fail {
        after: usize,
    },
    Heal,
    Check,
}

impl<'a> Arbitrary<'a> for Program {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        Ok(Self { capacity: u.int_in_range(0..=80_000)?, ops: ops(u)? })
    }
}

impl<'a> Arbitrary<'a> for Op {
    fn arbitrary(u: &mut Unstructured<'a>) -> Result<Self> {
        let len = |u: &mut Unstructured<'a>| match u.int_in_range(0..=7)? {
            0 => Ok(0),
            1 => u.int_in_range(0..=70_000),
            _ => u.int_in_range(0..=600usize),
        };
        let n = |u: &mut Unstructured<'a>| u.int_in_range(0..=32_767);
        Ok(match u.int_in_range(0..=17)? {
            0..=3 => Self::Write { n: n(u)?, len: len(u)? },
            4..=6 => Self::WriteAt { offset: u.int_in_range(0..=90_000)?, n: n(u)?, len: len(u)? },
            7 => Self::WriteAt { offset: usize::MAX - u.int_in_range(0..=300)?, n: n(u)?, len: len(u)? },
            8 | 9 => Self::MakeExecutable,
            10 => Self::MakeWritable,
            11 | 12 => Self::Entry { pick: u.arbitrary()? },
            13 => Self::EntryAnywhere { offset: u.int_in_range(0..=90_000)? },
            14 => Self::Clear,
            15 => Self::Fail { after: u.int_in_range(0..=4)? },
            16 => Self::Heal,
            _ => Self::Check,
        })
    }
}

struct Model {
    jit: JitMemory,
    /// All of the block, written or not.
    bytes: Vec<u8>,
    len: usize,
    /// Where whole functions were written, and what they return, as long as nothing was written
    /// over them.
    functions: Vec<(usize, u32)>,
    /// A refusal may come.
    armed: bool,
}

impl Program {
    pub fn run(&self) {
        let system = system();
        let page = region::page::size();
        let jit = match JitMemory::with_os(self.capacity, system) {
            Ok(jit) => jit,
            Err(error) => {
                assert!(self.capacity == 0 && matches!(error, Error::ZeroSize), "{error}");
                return;
            }
        };
        assert_eq!(jit.capacity(), self.capacity.next_multiple_of(page));
        let bytes = vec![0; jit.capacity()];
        let mut model = Model { jit, bytes, len: 0, functions: Vec::new(), armed: false };
        for op in &self.ops {
            match *op {
                Op::Fail { after } => {
                    system.fail_nth(after);
                    model.armed = true;
                }
                Op::Heal => {
                    system.heal();
                    model.armed = false;
                }
                ref op => model.apply(op),
            }
            model.armed &= !system.has_failed();
        }
        system.heal();
        model.armed = false;
        model.check();
        model.jit.make_executable().unwrap();
        for pick in 0..model.functions.len() {
            model.apply(&Op::Entry { pick });
        }
        model.check();
        drop(model);
        assert_eq!(system.mapped(), 0);
    }
}

impl Model {
    fn check(&self) {
        assert_eq!((self.jit.len(), self.jit.is_empty()), (self.len, self.len == 0));
        assert_eq!(self.jit.as_slice(), &self.bytes[..self.len]);
        #[cfg(target_os = "linux")]
        for permissions in crate::tests::common::maps::mappings(self.jit.as_ptr().addr(), self.jit.capacity()) {
            assert!(matches!(&permissions[..3], "rw-" | "r-x"), "{permissions}");
        }
    }

    /// The outcome of a call that nothing but a refusal of the system can fail.
    fn succeeds<T>(&self, outcome: std::result::Result<T, Error>) -> Option<T> {
        match outcome {
            Ok(value) => Some(value),
            Err(Error::OperatingSystem { .. }) if self.armed => None,
            Err(other) => panic!("{other}"),
        }
    }

    fn write(&mut self, at: Option<usize>, n: u32, len: usize) {
        let mut code = asm::constant(n);
        let whole = len >= code.len();
        code.resize(len, n as u8);
        let offset = at.unwrap_or(self.len);
        let fits = offset.checked_add(len).is_some_and(|end| end <= self.bytes.len());
        let outcome = match at {
            Some(offset) => self.jit.write_at(offset, &code),
            None => self.jit.write(&code).map(|at| assert_eq!(at, self.len)),
        };
        if !fits {
            assert!(matches!(outcome, Err(Error::PastCapacity { .. })));
        } else if self.succeeds(outcome).is_some() && len > 0 {
            self.bytes[offset..offset + len].copy_from_slice(&code);
            self.len = self.len.max(offset + len);
            let size = asm::constant(0).len();
            self.functions.retain(|(start, _)| start + size <= offset || offset + len <= *start);
            // Only architectures without alignment run code from anywhere.
            if whole && (offset % 16 == 0 || cfg!(any(target_arch = "x86", target_arch = "x86_64"))) {
                self.functions.push((offset, n));
            }
        }
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Write { n, len } => self.write(None, n, len),
            Op::WriteAt { offset, n, len } => self.write(Some(offset), n, len),
            Op::MakeExecutable => {
                let outcome = self.jit.make_executable();
                if let Some(base) = self.succeeds(outcome) {
                    assert_eq!(base, self.jit.as_ptr());
                    // What was written since it was last executable is executable now, all of it.
                    for (offset, n) in self.functions.iter().filter(|(offset, _)| *offset < self.len) {
                        assert_eq!(call_at(base.wrapping_add(*offset)), *n);
                    }
                }
            }
            Op::MakeWritable => {
                let outcome = self.jit.make_writable();
                self.succeeds(outcome);
            }
            Op::Entry { pick } => {
                let Some(&(offset, n)) = self.functions.get(pick % self.functions.len().max(1)) else { return };
                // SAFETY: the code there is of this type.
                let outcome = unsafe { self.jit.entry::<extern "C" fn() -> u32>(offset) };
                if offset >= self.len {
                    assert!(matches!(outcome, Err(Error::PastCapacity { .. })));
                } else if let Some(function) = self.succeeds(outcome) {
                    assert_eq!(function(), n);
                }
            }
            Op::EntryAnywhere { offset } => {
                // SAFETY: not called.
                let outcome = unsafe { self.jit.entry::<unsafe extern "C" fn()>(offset) };
                if offset >= self.len {
                    assert!(matches!(outcome, Err(Error::PastCapacity { .. })));
                } else if let Some(function) = self.succeeds(outcome) {
                    assert_eq!(function as usize, self.jit.as_ptr().addr() + offset);
                }
            }
            Op::Clear => {
                self.jit.clear();
                self.len = 0;
            }
            Op::Check => self.check(),
            Op::Fail { .. } | Op::Heal => {}
        }
    }
}
