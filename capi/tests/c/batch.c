/* Functions that are linked to each other, to data and to the program. */
#include "check.h"

static int of_the_program(void) {
    return 4711;
}

static void two_slots(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_batch *batch;
    gaia_jit_block *blocks[2];
    size_t caller, callee;
    code jumps = jump(), seven = returns(7);
    OK(gaia_jit_batch_new(arena, &batch));
    OK(gaia_jit_batch_push(batch, jumps.bytes, jumps.len, 0, 1, "caller", &caller));
    OK(gaia_jit_batch_push(batch, seven.bytes, seven.len, 64, 2, NULL, &callee));
    CHECK(caller == 0 && callee == 1 && gaia_jit_batch_len(batch) == 2);
    const void *address = gaia_jit_batch_address(batch, callee);
    CHECK((uintptr_t)address % 64 == 0);
    OK(gaia_jit_batch_link_slot(batch, caller, JUMP_AT, JUMP, callee, JUMP_ADDEND));
    OK(gaia_jit_batch_publish(batch, blocks, 2, NULL, 0));
    CHECK(call(gaia_jit_block_start(blocks[caller])) == 7);
    CHECK(gaia_jit_block_start(blocks[callee]) == address && gaia_jit_block_tag(blocks[callee]) == 2);
    /* It is empty, and can be used again. */
    CHECK(gaia_jit_batch_len(batch) == 0 && gaia_jit_batch_address(batch, caller) == NULL);
    OK(gaia_jit_block_free(blocks[0]));
    OK(gaia_jit_block_free(blocks[1]));
    OK(gaia_jit_batch_push(batch, seven.bytes, seven.len, 0, 0, NULL, &callee));
    CHECK(callee == 0);
    OK(gaia_jit_batch_publish(batch, blocks, 1, NULL, 0));
    CHECK(call(gaia_jit_block_start(blocks[0])) == 7);
    OK(gaia_jit_block_free(blocks[0]));
    OK(gaia_jit_batch_free(batch));
    free_empty(arena);
}

/* A function of the program, by way of a stub if it is far, and of a block that was there before. */
static void addresses(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_batch *batch;
    gaia_jit_block *blocks[2], *before = publish(arena, returns(3), 0);
    size_t out, in, len;
    uint8_t *bytes;
    code jumps = jump();
    OK(gaia_jit_batch_new(arena, &batch));
    OK(gaia_jit_batch_reserve(batch, jumps.len, 0, 1, &out));
    OK(gaia_jit_batch_set_tag(batch, out, 5));
    OK(gaia_jit_batch_set_name(batch, out, "out"));
    OK(gaia_jit_batch_bytes(batch, out, &bytes, &len));
    CHECK(len > jumps.len);
    memcpy(bytes, jumps.bytes, jumps.len);
    const void *program = (const void *)(uintptr_t)&of_the_program;
    OK(gaia_jit_batch_link_address(batch, out, JUMP_AT, JUMP, program, JUMP_ADDEND));
    OK(gaia_jit_batch_push(batch, jumps.bytes, jumps.len, 0, 6, NULL, &in));
    OK(gaia_jit_batch_link_address(batch, in, JUMP_AT, JUMP, gaia_jit_block_start(before), JUMP_ADDEND));
    OK(gaia_jit_batch_publish(batch, blocks, 2, NULL, 0));
    CHECK(call(gaia_jit_block_start(blocks[out])) == 4711 && gaia_jit_block_tag(blocks[out]) == 5);
    CHECK(call(gaia_jit_block_start(blocks[in])) == 3);
    OK(gaia_jit_block_free(blocks[0]));
    OK(gaia_jit_block_free(blocks[1]));
    OK(gaia_jit_block_free(before));
    OK(gaia_jit_batch_free(batch));
    free_empty(arena);
}

static void with_data(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_batch *batch;
    gaia_jit_block *block;
    gaia_jit_data *data[2];
    size_t slot, constant, variable;
    code loads = load();
    const int32_t value = 1234;
    OK(gaia_jit_batch_new(arena, &batch));
    OK(gaia_jit_batch_data(batch, (const uint8_t *)&value, sizeof value, 4, false, &constant));
    OK(gaia_jit_batch_data(batch, NULL, 100, 0, true, &variable));
    CHECK(constant == 0 && variable == 1 && gaia_jit_batch_data_address(batch, variable) != NULL);
    OK(gaia_jit_batch_push(batch, loads.bytes, loads.len, 0, 0, NULL, &slot));
    OK(gaia_jit_batch_link_data(batch, slot, LOAD_AT, LOAD, constant, LOAD_ADDEND));
    if (LOAD_2 != 0) {
        OK(gaia_jit_batch_link_data(batch, slot, LOAD_2_AT, LOAD_2, constant, LOAD_ADDEND));
    }
    const void *address = gaia_jit_batch_data_address(batch, constant);
    OK(gaia_jit_batch_publish(batch, &block, 1, data, 2));
    CHECK(call(gaia_jit_block_start(block)) == 1234 && gaia_jit_data_start(data[constant]) == address);
    CHECK(gaia_jit_data_start_mut(data[variable]) != NULL && gaia_jit_data_len(data[variable]) == 100);
    OK(gaia_jit_block_free(block));
    OK(gaia_jit_data_free(data[0]));
    OK(gaia_jit_data_free(data[1]));
    OK(gaia_jit_batch_free(batch));
    free_empty(arena);
}

static void given_up(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_batch *batch;
    size_t slot;
    OK(gaia_jit_batch_new(arena, &batch));
    OK(gaia_jit_batch_reserve(batch, 10000, 0, 0, &slot));
    CHECK(stats_of(arena).batch_bytes >= 10000);
    OK(gaia_jit_batch_free(batch));
    free_empty(arena);
}

void test_batch(void) {
    two_slots();
    addresses();
    with_data();
    given_up();
}
