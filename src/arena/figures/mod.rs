//! What an arena holds, as numbers ([`stats`]) and page by page ([`map`]).

pub(super) mod map;
pub(super) mod stats;
