/* Published code that is changed where it lies. */
#include "check.h"

static void right(gaia_jit_mode mode, bool words) {
    gaia_jit_arena *arena = arena_in(mode);
    if (arena == NULL) {
        return;
    }
    gaia_jit_block *block = publish(arena, patchable(), 0);
    CHECK(call(gaia_jit_block_start(block)) == 1);
    if (words) {
        OK(gaia_jit_block_patch_u32(block, PATCH_AT, PATCH));
    } else {
        const uint32_t patch = PATCH;
        FAILS(GAIA_JIT_STATUS_UNSUPPORTED, "patching a word", gaia_jit_block_patch_u32(block, PATCH_AT, PATCH));
        CHECK(call(gaia_jit_block_start(block)) == 1);
        gaia_jit_status status = gaia_jit_block_patch(block, PATCH_AT, (const uint8_t *)&patch, sizeof patch);
        if (status == GAIA_JIT_STATUS_UNSUPPORTED && stats_of(arena).unfilled != GAIA_JIT_UNFILLED_FILLED) {
            printf("NOT RUN: a patch in mode %d: %s\n", (int)mode, gaia_jit_last_error_message());
            OK(gaia_jit_block_free(block));
            free_empty(arena);
            return;
        }
        OK(status);
    }
    CHECK(call(gaia_jit_block_start(block)) == 2);
    /* Any bytes, and none of them. */
    code seven = returns(7);
    OK(gaia_jit_block_patch(block, 0, seven.bytes, seven.len));
    CHECK(call(gaia_jit_block_start(block)) == 7);
    OK(gaia_jit_block_patch(block, 0, NULL, 0));
    CHECK(call(gaia_jit_block_start(block)) == 7);
    OK(gaia_jit_block_free(block));
    free_empty(arena);
}

static void eight_bytes(void) {
    gaia_jit_arena *arena = arena_in(GAIA_JIT_MODE_DUAL_MAP);
    if (arena == NULL) {
        return;
    }
    gaia_jit_block *block = publish(arena, patchable(), 0);
    uint64_t word = 0;
    code seven = returns(7);
    memcpy(&word, seven.bytes, seven.len < sizeof word ? seven.len : sizeof word);
#if defined(__aarch64__)
    FAILS(GAIA_JIT_STATUS_UNSUPPORTED, "four bytes", gaia_jit_block_patch_u64(block, 0, word));
    FAILS(GAIA_JIT_STATUS_UNSUPPORTED, "does not allow it", gaia_jit_block_patch_u32(block, 0, 0xd503201fu));
    CHECK(call(gaia_jit_block_start(block)) == 1);
#else
    OK(gaia_jit_block_patch_u64(block, 0, word));
    CHECK(call(gaia_jit_block_start(block)) == 7);
#endif
    OK(gaia_jit_block_free(block));
    free_empty(arena);
}

static void wrong(void) {
    gaia_jit_arena *arena = arena_in(GAIA_JIT_MODE_DUAL_MAP);
    const gaia_jit_status null = GAIA_JIT_STATUS_NULL_POINTER, past = GAIA_JIT_STATUS_PAST_CAPACITY;
    const uint8_t bytes[16] = {0};
    FAILS(null, "block is NULL", gaia_jit_block_patch(NULL, 0, bytes, 1));
    FAILS(null, "block is NULL", gaia_jit_block_patch_u32(NULL, 0, 0));
    FAILS(null, "block is NULL", gaia_jit_block_patch_u64(NULL, 0, 0));
    if (arena == NULL) {
        return;
    }
    gaia_jit_block *block = publish(arena, patchable(), 0);
    const size_t len = gaia_jit_block_len(block);
    FAILS(null, "bytes is NULL", gaia_jit_block_patch(block, 0, NULL, 1));
    FAILS(past, "do not lie inside", gaia_jit_block_patch(block, len - 3, bytes, 4));
    FAILS(past, "do not lie inside", gaia_jit_block_patch(block, SIZE_MAX, bytes, 4));
    FAILS(past, "do not lie inside", gaia_jit_block_patch_u32(block, len - 3, 0));
    FAILS(past, "do not lie inside", gaia_jit_block_patch_u64(block, len - 7, 0));
    FAILS(past, "do not lie inside", gaia_jit_block_patch_u64(block, SIZE_MAX - 3, 0));
    FAILS(GAIA_JIT_STATUS_UNSUPPORTED, "offset 1 is no multiple of 4", gaia_jit_block_patch_u32(block, 1, 0));
    CHECK(call(gaia_jit_block_start(block)) == 1);
    IN_A_CHILD({
        FAILS(GAIA_JIT_STATUS_FORKED, "patch", gaia_jit_block_patch_u32(block, PATCH_AT, PATCH));
        FAILS(GAIA_JIT_STATUS_FORKED, "patch", gaia_jit_block_patch(block, 0, bytes, 1));
    });
    CHECK(call(gaia_jit_block_start(block)) == 1);
    OK(gaia_jit_block_free(block));
    free_empty(arena);
}

void test_patch(void) {
    right(GAIA_JIT_MODE_FLIP, false);
    right(GAIA_JIT_MODE_DUAL_MAP, true);
    right(GAIA_JIT_MODE_PER_THREAD, true);
    right(GAIA_JIT_MODE_FILE_WRITE, false);
    eight_bytes();
    wrong();
}
