//! Several heaps in one arena: who takes from which, who frees into which, and what happens at the
//! borders.
//!
//! In these tests a thread chooses its heap by number (`go_to_heap`), so that one thread plays
//! several. Arenas have a few spans of 64 KiB, which are found full or free at will.
//!
//! | file | subject |
//! |---|---|
//! | `borders` | spans that change owner, holes that lie in two heaps |
//! | `ends` | ends of arenas and threads; forked children |
//! | `meeting` | threads that meet, and which heap each goes to |
//! | `prefault` | pages that get memory before functions are placed there |
//! | `random` | random work, figures taken again from the tables |
//! | `waiting` | what waits for guards, for pages to be sealed, for a system that refuses |

mod borders;
mod ends;
mod meeting;
mod prefault;
mod random;
mod waiting;

use crate::space::granules::SPAN;
use crate::tests::common::{asm, fills_holes, modes, not_run};
use crate::units::GRANULE;
use crate::{ArenaBuilder, CodeArena, CodeBlock, Error};

const SPAN_BYTES: usize = SPAN as usize * GRANULE;

/// For an arena in a mode that fills holes. `None`, said aloud, where there is no such mode.
fn builder(test: &str, spans: usize) -> Option<ArenaBuilder> {
    let Some(mode) = modes().find(|mode| fills_holes(*mode)) else {
        not_run(test, "no mode fills holes here");
        return None;
    };
    Some(CodeArena::builder().capacity(spans * SPAN_BYTES).mode(mode))
}

fn arena(test: &str, spans: usize) -> Option<CodeArena> {
    builder(test, spans).map(|builder| builder.build().unwrap())
}

/// Publishes through a heap.
fn publish(arena: &CodeArena, heap: usize, len: usize) -> Result<CodeBlock, Error> {
    arena.go_to_heap(heap);
    let block = arena.publish(&asm::padded(heap as u32 + 1, len)[..]);
    arena.go_to_heap(0);
    block
}

fn offset(arena: &CodeArena, block: &CodeBlock) -> usize {
    block.as_ptr().addr() - arena.core().memory.address(0).addr()
}

fn span(arena: &CodeArena, block: &CodeBlock) -> usize {
    offset(arena, block) / SPAN_BYTES
}

fn owner(arena: &CodeArena, span: usize) -> u16 {
    arena.core().heaps.granules().owner_at(span as u32 * SPAN).unwrap()
}

fn check_empty(arena: &CodeArena) {
    let stats = arena.stats();
    assert_eq!((stats.live_blocks, stats.pending_blocks, stats.batch_bytes), (0, 0, 0), "{stats}");
    assert_eq!((stats.free_bytes, stats.largest_hole), (arena.capacity(), arena.capacity()), "{stats}");
}
