//! The memory of an arena: a region, and the mode that says how bytes get into it without a page
//! that is writable and executable.
//!
//! Each mode is one file that says all of it: what is reserved, how the bytes of one function, of a
//! batch and of a patch get in, how pages come back, and what a forked child may do. The arena
//! knows no mode. It asks [`CodeMemory`], which passes calls on to the mode, and
//! [`Rules`](rules::Rules), which say in what a mode differs from others as far as an arena has to
//! know it.
//!
//! ```text
//!             views of the code                  who may write, and when
//! Flip        one                                nobody, but in pages without live code that a batch has open; or the kernel
//! DualMap     one executable, one writable       whoever knows the address of the second view
//! PerThread   one                                the thread that copies code in, while it does
//! FileWrite   one                                the kernel, for who has the descriptor of the file behind it
//! Given       as the embedder mapped it          whoever knows the alias, or the embedder's function
//! ```
//!
//! # To add a mode
//!
//! Write a file with a type that implements [`Mode`](mode::Mode) and a function that builds it, and
//! add it to [`WxMode`] and to [`CodeMemory::build`]. `toy`, which exists for a test, is the
//! shortest.

mod backing;
mod bars;
mod dual_map;
mod file_write;
mod flip;
mod given;
mod memory;
mod mode;
mod padded;
mod per_thread;
mod probe;
mod rules;
#[cfg(all(test, not(loom)))]
mod toy;
mod withdrawn;
mod wx_mode;

pub(crate) use given::Taken;
pub use given::{GivenCopy, GivenMemory, GivenWriter};
pub(crate) use memory::CodeMemory;
pub(crate) use rules::{Readers, Trims, WayIn};
pub use wx_mode::{Unfilled, WxMode};

use crate::Error;
use crate::region::Plan;
use crate::sys::Os;

impl CodeMemory {
    /// Memory as planned, tried out before it is returned.
    pub(crate) fn build(os: &'static dyn Os, mode: WxMode, plan: &Plan) -> Result<Self, Error> {
        let mut memory = Self::of_mode(os, mode, plan)?;
        memory.set_poisons(plan.poison);
        if !plan.freeze && memory.can_bar() && !memory.bar_all()? {
            // What is not executable stays so there: then all of it is executable, as without
            // poison.
            drop(memory);
            memory = Self::of_mode(os, mode, plan)?;
            memory.set_poisons(plan.poison);
        }
        memory.leave_out_of_dumps();
        if plan.freeze {
            memory.freeze()?;
        }
        Ok(memory)
    }

    fn of_mode(os: &'static dyn Os, mode: WxMode, plan: &Plan) -> Result<Self, Error> {
        match mode {
            WxMode::Flip => flip::build(os, plan),
            WxMode::DualMap => dual_map::build(os, plan),
            WxMode::PerThread => per_thread::build(os, plan),
            WxMode::FileWrite => file_write::build(os, plan),
            #[cfg(all(test, not(loom)))]
            WxMode::Toy => toy::build(os, plan),
            WxMode::Given => Err(Error::unsupported("Given", "the memory has to be given: `build_over` does that")),
        }
    }

    /// Memory that somebody else mapped, tried out before it is returned. Its owner is told if it
    /// is not.
    ///
    /// # Safety
    /// - As for [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over).
    pub(crate) unsafe fn over(os: &'static dyn Os, memory: Taken) -> Result<Self, Error> {
        // SAFETY: passed on to the caller.
        unsafe { given::build(os, memory) }
    }
}
