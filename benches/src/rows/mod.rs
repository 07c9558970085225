//! The rows of the design's table of performance to reach, a group to a file.

mod bulk;
mod cache;
mod calls;
mod churn;
mod drops;
mod handover;
mod jit_memory;
mod link;
mod lookup;
mod mappings;
mod misses;
mod modes;
mod one_at_a_time;
mod pin;
mod redirect;
mod tables;
mod threads;

pub use calls::Called;
pub use lookup::addresses_inside;
pub use threads::together;

use crate::group::Group;

/// Group and metric of the picture's left panel.
pub const CHURN: (&str, &str) = (churn::GROUP.name, churn::METRIC);
/// Group and metric of its right panel.
pub const CALLS: (&str, &str) = (calls::GROUP.name, calls::METRIC);

/// All groups, in the order of the table.
pub const ALL: &[Group] = &[
    bulk::GROUP,
    one_at_a_time::GROUP,
    churn::GROUP,
    drops::GROUP,
    calls::GROUP,
    threads::GROUP,
    modes::GROUP,
    handover::GROUP,
    lookup::GROUP,
    pin::GROUP,
    jit_memory::GROUP,
    mappings::GROUP,
    tables::GROUP,
    cache::GROUP,
    misses::GROUP,
    redirect::GROUP,
    link::GROUP,
];
