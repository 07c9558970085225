/* Addresses that stay while the code behind them changes. */
#include "check.h"

#include <pthread.h>

static void right(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *block = publish(arena, returns(1), 1);
    gaia_jit_redirect *entry;
    const void *first = gaia_jit_block_start(block);
    OK(gaia_jit_redirect_new(arena, &block, &entry));
    CHECK(block == NULL && gaia_jit_redirect_target(entry) == first);
    const void *address = gaia_jit_redirect_start(entry);
    CHECK(address != first && gaia_jit_arena_contains(arena, address) && call(address) == 1);
    block = publish(arena, returns(2), 2);
    const void *second = gaia_jit_block_start(block);
    OK(gaia_jit_redirect_swap(entry, &block));
    CHECK(gaia_jit_block_start(block) == first && gaia_jit_block_tag(block) == 1);
    CHECK(gaia_jit_redirect_start(entry) == address && gaia_jit_redirect_target(entry) == second);
    CHECK(call(address) == 2);
    OK(gaia_jit_block_free(block));
    CHECK(stats_of(arena).live_blocks == 2 && stats_of(arena).data_blocks == 1);
    /* The target goes with it. */
    OK(gaia_jit_redirect_free(entry));
    free_empty(arena);
}

/* The target is of another arena, whose handle goes first. */
static void of_another_arena(void) {
    gaia_jit_arena *arena = small_arena(), *other = small_arena();
    gaia_jit_block *block = publish(other, returns(3), 0);
    gaia_jit_redirect *entry;
    OK(gaia_jit_redirect_new(arena, &block, &entry));
    OK(gaia_jit_arena_free(other));
    CHECK(call(gaia_jit_redirect_start(entry)) == 3);
    OK(gaia_jit_redirect_free(entry));
    free_empty(arena);
}

static void wrong(void) {
    gaia_jit_arena *arena = small_arena(), *without_data;
    gaia_jit_builder *builder;
    gaia_jit_block *block = publish(arena, returns(4), 0);
    gaia_jit_redirect *entry = (gaia_jit_redirect *)arena;
    const gaia_jit_status null = GAIA_JIT_STATUS_NULL_POINTER;
    /* After an error the block is gone, and its place says so. */
    FAILS(null, "arena is NULL", gaia_jit_redirect_new(NULL, &block, &entry));
    CHECK(block == NULL && entry == NULL && stats_of(arena).live_blocks == 0);
    FAILS(null, "*block is NULL", gaia_jit_redirect_new(arena, &block, &entry));
    FAILS(null, "block is NULL", gaia_jit_redirect_new(arena, NULL, &entry));
    block = publish(arena, returns(4), 0);
    FAILS(null, "out is NULL", gaia_jit_redirect_new(arena, &block, NULL));
    CHECK(block == NULL && stats_of(arena).live_blocks == 0);
    OK(gaia_jit_builder_new(&builder));
    OK(gaia_jit_builder_capacity(builder, 1 << 20));
    OK(gaia_jit_builder_data(builder, 0));
    OK(gaia_jit_builder_build(builder, &without_data));
    OK(gaia_jit_builder_free(builder));
    block = publish(arena, returns(4), 0);
    FAILS(GAIA_JIT_STATUS_DATA_FULL, "data area full: 8 bytes", gaia_jit_redirect_new(without_data, &block, &entry));
    CHECK(block == NULL && entry == NULL && stats_of(arena).live_blocks == 0);
    free_empty(without_data);

    block = publish(arena, returns(5), 0);
    OK(gaia_jit_redirect_new(arena, &block, &entry));
    FAILS(null, "*block is NULL", gaia_jit_redirect_swap(entry, &block));
    FAILS(null, "block is NULL", gaia_jit_redirect_swap(entry, NULL));
    CHECK(call(gaia_jit_redirect_start(entry)) == 5);
    block = publish(arena, returns(6), 0);
    FAILS(null, "redirect is NULL", gaia_jit_redirect_swap(NULL, &block));
    CHECK(block == NULL);
    CHECK(gaia_jit_redirect_start(NULL) == NULL && gaia_jit_redirect_target(NULL) == NULL);
    CHECK(strcmp(gaia_jit_last_error_message(), "redirect is NULL") == 0);
    OK(gaia_jit_redirect_free(NULL));
    OK(gaia_jit_redirect_free(entry));
    free_empty(arena);
}

static void in_a_forked_child(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *block = publish(arena, returns(7), 0), *another = publish(arena, returns(8), 0);
    gaia_jit_redirect *entry;
    OK(gaia_jit_redirect_new(arena, &block, &entry));
    IN_A_CHILD({
        CHECK(call(gaia_jit_redirect_start(entry)) == 7);
        FAILS(GAIA_JIT_STATUS_FORKED, "swap a redirect", gaia_jit_redirect_swap(entry, &another));
        CHECK(another == NULL && call(gaia_jit_redirect_start(entry)) == 7);
    });
    OK(gaia_jit_block_free(another));
    OK(gaia_jit_redirect_free(entry));
    free_empty(arena);
}

enum { SWAPS = 500, CALLERS = 2 };

typedef struct {
    const gaia_jit_arena *arena;
    const gaia_jit_redirect *entry;
} shared;

/* Calls under guards see numbers that only grow. */
static void *calls(void *context) {
    const shared *s = context;
    int last = 0;
    while (last < SWAPS) {
        gaia_jit_guard guard;
        OK(gaia_jit_pin(s->arena, &guard));
        int now = call(gaia_jit_redirect_start(s->entry));
        OK(gaia_jit_unpin(&guard));
        CHECK(now >= last && now <= SWAPS);
        last = now;
    }
    return NULL;
}

static void under_calls(void) {
    shared s;
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *block = publish(arena, returns(0), 0);
    gaia_jit_redirect *entry;
    pthread_t callers[CALLERS];
    OK(gaia_jit_redirect_new(arena, &block, &entry));
    s.arena = arena;
    s.entry = entry;
    for (unsigned n = 0; n < CALLERS; n++) {
        CHECK(pthread_create(&callers[n], NULL, calls, &s) == 0);
    }
    for (unsigned n = 1; n <= SWAPS; n++) {
        block = publish(arena, returns(n), n);
        OK(gaia_jit_redirect_swap(entry, &block));
        CHECK(gaia_jit_block_tag(block) == n - 1);
        OK(gaia_jit_block_free(block));
    }
    for (unsigned n = 0; n < CALLERS; n++) {
        CHECK(pthread_join(callers[n], NULL) == 0);
    }
    OK(gaia_jit_redirect_free(entry));
    free_empty(arena);
}

void test_redirect(void) {
    right();
    of_another_arena();
    wrong();
    in_a_forked_child();
    under_calls();
}
