//! What observers are told: the trait ([`observer`]), the list of one arena ([`observers`]), the events ([`announce`]), and what is
//! kept for those that come late ([`kept`], [`attach`]).

pub(super) mod announce;
pub(super) mod attach;
pub(super) mod kept;
pub(super) mod observer;
pub(super) mod observers;
