//! What observers are told: the trait ([`observer`]), the list of one arena ([`observers`]), the
//! events ([`announce`]) of functions as they are [`described`], and what is kept for those that
//! come late ([`kept`], [`attach`]).

pub(super) mod announce;
pub(super) mod attach;
pub(super) mod described;
pub(super) mod kept;
pub(super) mod observer;
pub(super) mod observers;
