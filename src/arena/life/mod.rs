//! From placed to given back: where a block goes ([`place`]), how it comes to be live
//! ([`publish`]), how its space comes free after its drop ([`retire`]) or that of its end before
//! ([`shrink`]), how memory of free pages goes back to the system ([`trim`]), and what becomes of
//! whole pages on the way ([`pages`]).

mod pages;
mod place;
mod publish;
mod retire;
mod shrink;
mod trim;
