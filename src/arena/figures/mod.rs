//! Figures of an arena: numbers ([`stats`]), and its use page by page ([`map`]).

pub(super) mod map;
pub(super) mod stats;
