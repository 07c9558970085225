/* What is freed under a guard waits for its end. */
#include "check.h"

void test_guard(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *block = publish(arena, returns(5), 0);
    gaia_jit_guard guard, younger;
    const void *address = gaia_jit_block_start(block);
    OK(gaia_jit_pin(arena, &guard));
    OK(gaia_jit_block_free(block));
    gaia_jit_stats stats = stats_of(arena);
    CHECK(stats.pending_blocks == 1 && stats.pending_bytes == 16 && stats.live_blocks == 0);
    /* It is there still, and others go elsewhere. */
    CHECK(call(address) == 5);
    for (unsigned n = 0; n < 100; n++) {
        block = publish(arena, returns(6), 0);
        CHECK(gaia_jit_block_start(block) != address);
        OK(gaia_jit_block_free(block));
    }
    CHECK(call(address) == 5);
    /* One that was taken after the drop delays nothing. */
    OK(gaia_jit_pin(arena, &younger));
    OK(gaia_jit_unpin(&guard));
    stats = stats_of(arena);
    CHECK(stats.pending_blocks == 0 && stats.free_bytes == stats.capacity);
    OK(gaia_jit_unpin(&younger));
    /* A guard ends once. */
    FAILS(GAIA_JIT_STATUS_NULL_POINTER, "what the guard holds is NULL", gaia_jit_unpin(&guard));
    free_empty(arena);
}
