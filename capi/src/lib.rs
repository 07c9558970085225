//! The C interface of gaia-jit. `include/gaia_jit.h` is made of this by cbindgen: what is said of a
//! function here is what C programmers read there.
//!
//! Every function takes the same three steps: pointers become references ([`handle`]), the crate is
//! called, and what comes of it becomes a status and a message ([`failure`]). Handles are boxes of
//! the crate's own types. No panic gets out.
#![cfg_attr(test, allow(clippy::unwrap_used))]

mod arena;
mod batch;
mod block;
mod builder;
mod data;
mod failure;
mod guard;
mod handle;
mod link;
mod lookup;
mod memory;
mod mode;
mod patch;
mod publish;
mod publish_with;
mod redirect;
mod reloc;
mod slots;
mod stats;
mod status;
mod version;

pub use arena::*;
pub use batch::*;
pub use block::*;
pub use builder::*;
pub use data::*;
pub use failure::gaia_jit_last_error_message;
pub use guard::*;
pub use link::*;
pub use lookup::*;
pub use memory::*;
pub use mode::Mode;
pub use patch::*;
pub use publish::*;
pub use publish_with::*;
pub use redirect::*;
pub use reloc::RelocKind;
pub use slots::*;
pub use stats::*;
pub use status::Status;
pub use version::*;
