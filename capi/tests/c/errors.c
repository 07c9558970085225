/* What cannot be done has a status and a message, and changes nothing. */
#include "check.h"

static void null_pointers(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_batch *batch = (gaia_jit_batch *)arena;
    gaia_jit_block *block = (gaia_jit_block *)arena;
    gaia_jit_found found;
    gaia_jit_guard guard;
    code code = returns(1);
    const gaia_jit_status null = GAIA_JIT_STATUS_NULL_POINTER;
    FAILS(null, "arena is NULL", gaia_jit_publish(NULL, code.bytes, code.len, 0, 0, NULL, &block));
    CHECK(block == NULL);
    FAILS(null, "out is NULL", gaia_jit_publish(arena, code.bytes, code.len, 0, 0, NULL, NULL));
    FAILS(null, "code is NULL", gaia_jit_publish(arena, NULL, code.len, 0, 0, NULL, &block));
    FAILS(null, "out is NULL", gaia_jit_arena_new(NULL));
    FAILS(null, "arena is NULL", gaia_jit_batch_new(NULL, &batch));
    CHECK(batch == NULL);
    FAILS(null, "batch is NULL", gaia_jit_batch_publish(NULL, NULL, 0, NULL, 0));
    FAILS(null, "block is NULL", gaia_jit_block_shrink(NULL, 1));
    FAILS(null, "arena is NULL", gaia_jit_lookup(NULL, NULL, &found));
    FAILS(null, "found is NULL", gaia_jit_lookup(arena, NULL, NULL));
    FAILS(null, "addresses is NULL", gaia_jit_lookup_many(arena, NULL, 1, &found));
    OK(gaia_jit_lookup_many(arena, NULL, 0, NULL));
    FAILS(null, "arena is NULL", gaia_jit_pin(NULL, &guard));
    FAILS(null, "what the guard holds is NULL", gaia_jit_unpin(&guard));
    FAILS(null, "memory is NULL", gaia_jit_memory_make_executable(NULL));
    FAILS(null, "builder is NULL", gaia_jit_builder_capacity(NULL, 1));
    FAILS(null, "stats is NULL", gaia_jit_arena_stats(arena, NULL));
    CHECK(gaia_jit_block_start(NULL) == NULL && strcmp(gaia_jit_last_error_message(), "block is NULL") == 0);
    CHECK(gaia_jit_block_len(NULL) == 0 && gaia_jit_batch_len(NULL) == 0 && !gaia_jit_arena_contains(NULL, &guard));
    /* As `free` has it. */
    OK(gaia_jit_arena_free(NULL));
    OK(gaia_jit_batch_free(NULL));
    OK(gaia_jit_block_free(NULL));
    OK(gaia_jit_builder_free(NULL));
    OK(gaia_jit_data_free(NULL));
    OK(gaia_jit_memory_free(NULL));
    free_empty(arena);
}

static void sizes(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *block;
    gaia_jit_data *data;
    code code = returns(1);
    static uint8_t large[2 << 20];
    FAILS(GAIA_JIT_STATUS_ZERO_SIZE, "zero bytes", gaia_jit_publish(arena, NULL, 0, 0, 0, NULL, &block));
    FAILS(GAIA_JIT_STATUS_TOO_LARGE, "2097152 bytes asked for, at most 1048576 can be had",
          gaia_jit_publish(arena, large, sizeof large, 0, 0, NULL, &block));
    FAILS(GAIA_JIT_STATUS_BAD_ALIGNMENT, "alignment 24",
          gaia_jit_publish(arena, code.bytes, code.len, 24, 0, NULL, &block));
    FAILS(GAIA_JIT_STATUS_INVALID_ARGUMENT, "code cannot have",
          gaia_jit_publish(arena, code.bytes, SIZE_MAX, 0, 0, NULL, &block));
    FAILS(GAIA_JIT_STATUS_TOO_LARGE, "at most", gaia_jit_data_new(arena, NULL, 1 << 30, 0, true, &data));
    block = publish(arena, code, 0);
    FAILS(GAIA_JIT_STATUS_PAST_CAPACITY, "do not lie inside", gaia_jit_block_shrink(block, 100));
    FAILS(GAIA_JIT_STATUS_ZERO_SIZE, "zero bytes", gaia_jit_block_shrink(block, 0));
    CHECK(gaia_jit_block_len(block) == code.len && call(gaia_jit_block_start(block)) == 1);
    OK(gaia_jit_block_free(block));
    free_empty(arena);
}

static void full(void) {
    enum { LEN = 256 << 10 };
    static uint8_t code[LEN];
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *blocks[5];
    unsigned count = 0;
    gaia_jit_status status;
    while ((status = gaia_jit_publish(arena, code, LEN, 0, 0, NULL, &blocks[count])) == GAIA_JIT_STATUS_OK) {
        CHECK(++count < 5);
    }
    FAILS(GAIA_JIT_STATUS_ARENA_FULL, "arena full: 262144 bytes asked for", status);
    CHECK(count == 4 && blocks[4] == NULL);
    OK(gaia_jit_block_free(blocks[--count]));
    OK(gaia_jit_publish(arena, code, LEN, 0, 0, NULL, &blocks[count++]));
    while (count > 0) {
        OK(gaia_jit_block_free(blocks[--count]));
    }
    free_empty(arena);
}

static void batches(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_batch *batch;
    gaia_jit_block *blocks[2];
    size_t slot;
    code jumps = jump();
    OK(gaia_jit_batch_new(arena, &batch));
    OK(gaia_jit_batch_push(batch, jumps.bytes, jumps.len, 0, 0, NULL, &slot));
    FAILS(GAIA_JIT_STATUS_OTHER_BATCH, "slot 1 is none of the 1 of this batch", gaia_jit_batch_set_tag(batch, 1, 0));
    FAILS(GAIA_JIT_STATUS_OTHER_BATCH, "slot 3 is none of the 0",
          gaia_jit_batch_link_data(batch, slot, JUMP_AT, JUMP, 3, JUMP_ADDEND));
    FAILS(GAIA_JIT_STATUS_INVALID_ARGUMENT, "77777 is no kind of relocation",
          gaia_jit_batch_link_slot(batch, slot, JUMP_AT, 77777, slot, 0));
    FAILS(GAIA_JIT_STATUS_LINK, "another architecture", gaia_jit_batch_link_slot(batch, slot, 0, FOREIGN, slot, 0));
    FAILS(GAIA_JIT_STATUS_PAST_CAPACITY, "do not lie inside",
          gaia_jit_batch_link_slot(batch, slot, jumps.len, JUMP, slot, 0));
    /* Out of reach, and without a stub. */
    const char *far = (const char *)gaia_jit_arena_base(arena) + ((intptr_t)1 << 40);
    FAILS(GAIA_JIT_STATUS_LINK, "out of range",
          gaia_jit_batch_link_address(batch, slot, JUMP_AT, JUMP, far, JUMP_ADDEND));
    FAILS(GAIA_JIT_STATUS_INVALID_ARGUMENT, "blocks has 2 elements, and the batch 1",
          gaia_jit_batch_publish(batch, blocks, 2, NULL, 0));
    OK(gaia_jit_batch_link_slot(batch, slot, JUMP_AT, JUMP, slot, JUMP_ADDEND));
    OK(gaia_jit_batch_publish(batch, blocks, 1, NULL, 0));
    OK(gaia_jit_block_free(blocks[0]));
    OK(gaia_jit_batch_free(batch));
    free_empty(arena);
}

static void settings(void) {
    gaia_jit_builder *builder;
    gaia_jit_arena *arena;
    const uint32_t modes[] = {GAIA_JIT_MODE_FLIP, 50};
    OK(gaia_jit_builder_new(&builder));
    FAILS(GAIA_JIT_STATUS_INVALID_ARGUMENT, "99 is no mode", gaia_jit_builder_mode(builder, GAIA_JIT_MODE_OTHER));
    FAILS(GAIA_JIT_STATUS_INVALID_ARGUMENT, "50 is no mode", gaia_jit_builder_modes(builder, modes, 2));
    FAILS(GAIA_JIT_STATUS_NULL_POINTER, "name is NULL", gaia_jit_builder_name(builder, NULL));
    OK(gaia_jit_builder_capacity(builder, SIZE_MAX / 2));
    FAILS(GAIA_JIT_STATUS_TOO_LARGE, "bytes asked for, at most", gaia_jit_builder_build(builder, &arena));
    CHECK(arena == NULL);
    OK(gaia_jit_builder_modes(builder, NULL, 0));
    OK(gaia_jit_builder_capacity(builder, 1 << 20));
    FAILS(GAIA_JIT_STATUS_UNSUPPORTED, "the list of modes is empty", gaia_jit_builder_build(builder, &arena));
    OK(gaia_jit_builder_free(builder));
}

static size_t count_calls(void *calls, const void *address, uint8_t *bytes, size_t len) {
    (void)address;
    (void)bytes;
    ++*(unsigned *)calls;
    return len;
}

static void in_a_child(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *block = publish(arena, returns(8), 0), *another;
    code nine = returns(9);
    unsigned calls = 0;
    IN_A_CHILD({
        CHECK(call(gaia_jit_block_start(block)) == 8);
        FAILS(GAIA_JIT_STATUS_FORKED, "a forked child cannot publish",
              gaia_jit_publish(arena, nine.bytes, nine.len, 0, 0, NULL, &another));
        FAILS(GAIA_JIT_STATUS_FORKED, "a forked child cannot",
              gaia_jit_publish_with(arena, nine.len, 0, 0, NULL, count_calls, &calls, &another));
        FAILS(GAIA_JIT_STATUS_FORKED, "a forked child cannot shrink", gaia_jit_block_shrink(block, 1));
        CHECK(calls == 0);
        OK(gaia_jit_block_free(block));
    });
    OK(gaia_jit_block_free(block));
    free_empty(arena);
}

void test_errors(void) {
    CHECK(gaia_jit_last_error_message() != NULL);
    null_pointers();
    sizes();
    full();
    batches();
    settings();
    in_a_child();
}
