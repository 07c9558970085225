/* Functions that are written for the address at which they run. */
#include "check.h"

/* What a writer is told, and what it is to do. */
typedef struct {
    const void *address;
    size_t len;
    unsigned calls;
    code code;
    /* What it says it took. */
    size_t taken;
    /* An arena that it publishes to meanwhile, or NULL. */
    const gaia_jit_arena *arena;
    gaia_jit_block *another;
} writer;

static size_t write_code(void *context, const void *address, uint8_t *bytes, size_t len) {
    writer *w = context;
    w->address = address;
    w->len = len;
    w->calls++;
    if (w->arena != NULL) {
        w->another = publish(w->arena, returns(11), 11);
    }
    memcpy(bytes, w->code.bytes, w->code.len < len ? w->code.len : len);
    return w->taken;
}

static writer writes(code code) {
    writer made;
    memset(&made, 0, sizeof made);
    made.code = code;
    made.taken = code.len;
    return made;
}

static void right(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *block;
    gaia_jit_found found;
    writer w = writes(returns(9));
    w.arena = arena;
    OK(gaia_jit_publish_with(arena, 1000, 128, 77, "nine", write_code, &w, &block));
    CHECK(w.calls == 1 && w.len == 1000 && (uintptr_t)w.address % 128 == 0);
    CHECK(gaia_jit_block_start(block) == w.address && gaia_jit_block_len(block) == w.taken);
    CHECK(gaia_jit_block_tag(block) == 77 && call(w.address) == 9);
    /* It used the arena meanwhile, and what it did not take is free. */
    CHECK(call(gaia_jit_block_start(w.another)) == 11);
    CHECK(stats_of(arena).live_bytes == w.taken + returns(11).len);
    OK(gaia_jit_lookup(arena, (const char *)w.address + w.taken, &found));
    CHECK(found.start == NULL);
    OK(gaia_jit_block_free(block));
    OK(gaia_jit_block_free(w.another));
    /* All of it, by the usual alignment, without a name. */
    w = writes(returns(10));
    OK(gaia_jit_publish_with(arena, w.taken, 0, 0, NULL, write_code, &w, &block));
    CHECK(w.len == w.taken && (uintptr_t)w.address % 16 == 0 && call(w.address) == 10);
    OK(gaia_jit_block_free(block));
    free_empty(arena);
}

static size_t jump_there(void *context, const void *address, uint8_t *bytes, size_t len);

/* Bytes that differ with the address: a jump to a function that lies elsewhere in the arena. */
static void by_address(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *known = publish(arena, returns(12), 0), *jumps[20];
    for (unsigned n = 0; n < 20; n++) {
        const void *target = gaia_jit_block_start(known);
        OK(gaia_jit_publish_with(arena, CODE_MAX, 0, n, NULL, jump_there, &target, &jumps[n]));
    }
    for (unsigned n = 0; n < 20; n++) {
        CHECK(call(gaia_jit_block_start(jumps[n])) == 12);
        OK(gaia_jit_block_free(jumps[n]));
    }
    OK(gaia_jit_block_free(known));
    free_empty(arena);
}

static size_t jump_there(void *context, const void *address, uint8_t *bytes, size_t len) {
    const void *target = *(const void **)context;
    const intptr_t distance = (intptr_t)target - (intptr_t)address;
    code jumps = jump_by(distance);
    CHECK(jumps.len <= len);
    memcpy(bytes, jumps.bytes, jumps.len);
    return jumps.len;
}

static void wrong(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *block = (gaia_jit_block *)arena;
    writer w = writes(returns(1));
    FAILS(GAIA_JIT_STATUS_NULL_POINTER, "arena is NULL",
          gaia_jit_publish_with(NULL, 16, 0, 0, NULL, write_code, &w, &block));
    CHECK(block == NULL);
    FAILS(GAIA_JIT_STATUS_NULL_POINTER, "write is NULL",
          gaia_jit_publish_with(arena, 16, 0, 0, NULL, NULL, &w, &block));
    FAILS(GAIA_JIT_STATUS_NULL_POINTER, "out is NULL",
          gaia_jit_publish_with(arena, 16, 0, 0, NULL, write_code, &w, NULL));
    FAILS(GAIA_JIT_STATUS_ZERO_SIZE, "zero bytes",
          gaia_jit_publish_with(arena, 0, 0, 0, NULL, write_code, &w, &block));
    FAILS(GAIA_JIT_STATUS_TOO_LARGE, "2097152 bytes asked for, at most 1048576",
          gaia_jit_publish_with(arena, 2 << 20, 0, 0, NULL, write_code, &w, &block));
    FAILS(GAIA_JIT_STATUS_BAD_ALIGNMENT, "alignment 3",
          gaia_jit_publish_with(arena, 16, 3, 0, NULL, write_code, &w, &block));
    CHECK(w.calls == 0);
    w.taken = 0;
    FAILS(GAIA_JIT_STATUS_CALLBACK, "returned 0",
          gaia_jit_publish_with(arena, 16, 0, 0, NULL, write_code, &w, &block));
    CHECK(w.calls == 1 && block == NULL);
    w.taken = 17;
    FAILS(GAIA_JIT_STATUS_PAST_CAPACITY, "do not lie inside",
          gaia_jit_publish_with(arena, 16, 0, 0, NULL, write_code, &w, &block));
    w.taken = SIZE_MAX;
    FAILS(GAIA_JIT_STATUS_PAST_CAPACITY, "do not lie inside",
          gaia_jit_publish_with(arena, 16, 0, 0, NULL, write_code, &w, &block));
    CHECK(w.calls == 3 && block == NULL);
    free_empty(arena);
}

void test_publish_with(void) {
    right();
    by_address();
    wrong();
}
