//! Observers that come with the crate: each tells one kind of tool what happens in an arena. All are off by default, and
//! nothing in the arena knows of them.

#[cfg(feature = "tracing")]
mod events;

#[cfg(feature = "tracing")]
pub use events::Events;
