//! Tests of the cache of compiled code.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../common/mod.rs"]
mod common;

mod calls;
mod fork;
mod model;
mod room;
mod threads;

use std::hash::Hash;
use std::sync::Arc;

use common::{asm, call, call_at};
use gaia_jit::cache::{CodeCache, Entry};
use gaia_jit::{Batch, Error, Slot};

/// Returns a function of `len` bytes that returns `n`.
fn code(n: u32, len: usize) -> impl FnOnce(&mut Batch) -> Result<Slot, Error> {
    move |batch| batch.push(&asm::padded(n, len))
}

/// Asks the cache for a key, and compiles it if it is missing. Checks the result.
fn ask<K: Hash + Eq + Clone + Send + Sync + 'static>(
    cache: &CodeCache<K>,
    key: K,
    n: u32,
    len: usize,
) -> Arc<Entry<K>> {
    let entry = cache.get_or_compile(&key, code(n, len)).unwrap();
    assert_eq!(call(entry.block()), n);
    entry
}

fn call_entry<K, V>(entry: &Entry<K, V>) -> u32 {
    call_at(entry.as_ptr())
}
