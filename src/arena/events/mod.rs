//! What observers are told: the trait ([`observer`]), the list of one arena ([`observers`]), and the events ([`announce`]).

pub(super) mod announce;
pub(super) mod observer;
pub(super) mod observers;
