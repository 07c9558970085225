//! Loads that hurt others, as counters and not only times.

mod batches;
mod growth;
mod memory;
mod one_function;
mod order;
mod survivors;

use crate::group::Group;

/// All loads.
pub const ALL: &[Group] =
    &[one_function::GROUP, growth::GROUP, survivors::GROUP, order::GROUP, batches::GROUP, memory::GROUP];
