//! Modes: the memory of an arena is a region, and a mode that writes to it without a page that is
//! writable and executable.
//!
//! Each mode is one file. It defines the reservation, the ways to write a function, a batch and a
//! patch, how memory is returned, and the rights of a forked child. The arena does not know the
//! mode. It calls [`CodeMemory`], which calls the mode, and it reads [`Rules`](rules::Rules): the
//! differences of modes that an arena has to know.
//!
//! ```text
//!             views of the code                  who may write, and when
//! Flip        r-x                                any thread, into pages without live code while a batch has them open (rw-);
//!                                                the kernel, into holes (/proc/self/mem)
//! DualMap     r-x and rw-, one memory            any thread that knows the address of the second view
//! PerThread   rwx in the page tables             a thread while it copies code, by its own rights (key, MAP_JIT)
//! FileWrite   r-x, backed by a file              the kernel, for anybody who has the descriptor (pwrite)
//! Given       as the embedder mapped it          any thread that knows the alias, or the embedder's function
//! ```
//!
//! A call goes from the arena through [`CodeMemory`] (which notes refusals, in `withdrawn`, and
//! bars pages, in `bars`) to the mode, to the [region](crate::region), to the system. This
//! folder takes no lock.
//!
//! # How to add a mode
//!
//! Write a file with a type that implements [`Mode`](mode::Mode) and a function that builds it. Add
//! it to [`WxMode`] and to [`CodeMemory::build`]. `toy`, which exists for a test, is the shortest
//! mode.

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
mod prefault;
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
    /// Reserves memory as planned, and tries it out before it is returned.
    pub(crate) fn build(os: &'static dyn Os, mode: WxMode, plan: &Plan) -> Result<Self, Error> {
        let mut memory = Self::of_mode(os, mode, plan)?;
        memory.set_poisons(plan.poison);
        if !plan.freeze && memory.can_bar() && !memory.bar_all()? {
            // Pages that cannot be made executable again stay not executable. So the region is
            // built again with all of it executable, as without poison.
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
            WxMode::Given => Err(Error::unsupported("Given", "the memory has to be given: call `build_over`")),
        }
    }

    /// Takes memory that somebody else mapped, and tries it out before it is returned. After an
    /// error its `release` was called.
    ///
    /// # Safety
    /// - As for [`ArenaBuilder::build_over`](crate::ArenaBuilder::build_over).
    pub(crate) unsafe fn over(os: &'static dyn Os, memory: Taken) -> Result<Self, Error> {
        // SAFETY: passed on to the caller.
        unsafe { given::build(os, memory) }
    }
}
