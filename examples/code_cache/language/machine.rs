//! The machine that both engines run on: its state, its limits and its arithmetic.

use super::ast::{Binary, Unary};

/// The number of words of `mem`. It is a power of two, because an index is masked with it.
pub(crate) const MEMORY_WORDS: usize = 256;

/// The limit of nested calls.
///
/// With `resolve::MAX_NODES` it bounds the stack of a run. A compiled function spills at most one
/// word for each node of its tree. So 256 frames of 4,096 words take 8 MiB. The interpreter's
/// frames are much smaller. Runs happen on threads with [`STACK_BYTES`] of stack.
pub(crate) const MAX_DEPTH: i64 = 256;

/// The limit of parameters of a function. It bounds the argument buffer of the entry trampoline.
pub(crate) const MAX_PARAMETERS: usize = 6;

/// The budget of a program that does not state one.
pub(crate) const DEFAULT_STEPS: i64 = 1_000_000;

/// The largest budget that a program can state.
pub(crate) const MAX_STEPS: i64 = 10_000_000;

/// The stack of every thread that runs programs.
pub(crate) const STACK_BYTES: usize = 32 << 20;

/// The state that a run reads and writes. It has a fixed layout, because compiled code gets a
/// pointer to it.
#[repr(C)]
pub(crate) struct Machine {
    /// The remaining steps, never negative.
    pub(crate) steps: i64,
    /// The remaining depth of calls, never negative.
    pub(crate) depth: i64,
    pub(crate) memory: [i64; MEMORY_WORDS],
}

impl Machine {
    pub(crate) fn new() -> Self {
        Self { steps: 0, depth: MAX_DEPTH, memory: [0; MEMORY_WORDS] }
    }

    /// Resets the machine to the state at the start of every run.
    pub(crate) fn reset(&mut self, steps: i64) {
        self.steps = steps;
        self.depth = MAX_DEPTH;
        self.memory.fill(0);
    }

    /// Returns the number of the word of `mem` that an index selects.
    pub(crate) fn word(index: i64) -> usize {
        (index as usize) & (MEMORY_WORDS - 1)
    }
}

impl Unary {
    pub(crate) fn apply(self, value: i64) -> i64 {
        match self {
            Self::Negate => value.wrapping_neg(),
            Self::Complement => !value,
            Self::Not => i64::from(value == 0),
        }
    }
}

impl Binary {
    pub(crate) fn apply(self, left: i64, right: i64) -> i64 {
        match self {
            Self::Add => left.wrapping_add(right),
            Self::Subtract => left.wrapping_sub(right),
            Self::Multiply => left.wrapping_mul(right),
            Self::Divide if right == 0 => 0,
            Self::Divide => left.wrapping_div(right),
            Self::Remainder if right == 0 => left,
            Self::Remainder => left.wrapping_rem(right),
            Self::And => left & right,
            Self::Or => left | right,
            Self::Xor => left ^ right,
            // Rust's wrapping shifts mask their count with 63, as the language does.
            Self::ShiftLeft => left.wrapping_shl(right as u32),
            Self::ShiftRight => left.wrapping_shr(right as u32),
            Self::ShiftRightLogical => (left as u64).wrapping_shr(right as u32) as i64,
            Self::Equal => i64::from(left == right),
            Self::NotEqual => i64::from(left != right),
            Self::Less => i64::from(left < right),
            Self::LessOrEqual => i64::from(left <= right),
            Self::Greater => i64::from(left > right),
            Self::GreaterOrEqual => i64::from(left >= right),
        }
    }
}
