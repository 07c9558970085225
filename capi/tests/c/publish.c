/* Functions by themselves, in every mode that there is, and the settings of an arena. */
#include "check.h"

static void in_mode(gaia_jit_mode mode) {
    gaia_jit_arena *arena = arena_in(mode);
    gaia_jit_mode built;
    if (arena == NULL) {
        return;
    }
    OK(gaia_jit_arena_mode(arena, &built));
    CHECK(built == mode);
    gaia_jit_block *blocks[50];
    for (unsigned n = 0; n < 50; n++) {
        blocks[n] = publish(arena, returns(n), n);
    }
    for (unsigned n = 0; n < 50; n++) {
        CHECK(call(gaia_jit_block_start(blocks[n])) == (int)n);
        CHECK(gaia_jit_block_tag(blocks[n]) == n);
        CHECK(gaia_jit_block_len(blocks[n]) == returns(n).len);
    }
    CHECK(stats_of(arena).live_blocks == 50);
    for (unsigned n = 0; n < 50; n++) {
        OK(gaia_jit_block_free(blocks[n]));
    }
    OK(gaia_jit_arena_trim(arena, NULL));
    free_empty(arena);
}

static void settings(void) {
    gaia_jit_builder *builder;
    gaia_jit_arena *arena;
    const uint32_t modes[] = {GAIA_JIT_MODE_FILE_WRITE, GAIA_JIT_MODE_FLIP};
    OK(gaia_jit_builder_new(&builder));
    OK(gaia_jit_builder_capacity(builder, 256 << 10));
    OK(gaia_jit_builder_data(builder, 64 << 10));
    OK(gaia_jit_builder_modes(builder, modes, 2));
    OK(gaia_jit_builder_huge_pages(builder, true));
    OK(gaia_jit_builder_poison(builder, true));
    OK(gaia_jit_builder_keep_free(builder, 64 << 10));
    OK(gaia_jit_builder_seal(builder, false));
    OK(gaia_jit_builder_landing_pads(builder, false));
    OK(gaia_jit_builder_serialize_cores(builder, false));
    OK(gaia_jit_builder_name(builder, "tests of C"));
    OK(gaia_jit_builder_near(builder, (const void *)(uintptr_t)&settings));
    OK(gaia_jit_builder_build(builder, &arena));
    CHECK(gaia_jit_arena_capacity(arena) == 256 << 10);
    CHECK(stats_of(arena).data_capacity == 64 << 10);
    CHECK(gaia_jit_arena_reaches(arena, (const void *)(uintptr_t)&settings));
    CHECK(gaia_jit_arena_contains(arena, gaia_jit_arena_base(arena)) && !gaia_jit_arena_contains(arena, builder));
    free_empty(arena);
    /* Settings can be built again. */
    OK(gaia_jit_builder_build(builder, &arena));
    OK(gaia_jit_arena_free(arena));
    OK(gaia_jit_builder_free(builder));
}

static void aligned_and_shrunk(void) {
    gaia_jit_arena *arena;
    gaia_jit_block *block;
    uint8_t long_code[4096];
    code code = returns(7);
    OK(gaia_jit_arena_new(&arena));
    memset(long_code, 0, sizeof long_code);
    memcpy(long_code, code.bytes, code.len);
    OK(gaia_jit_publish(arena, long_code, sizeof long_code, 256, 0, NULL, &block));
    CHECK((uintptr_t)gaia_jit_block_start(block) % 256 == 0);
    OK(gaia_jit_block_shrink(block, code.len));
    CHECK(gaia_jit_block_len(block) == code.len && stats_of(arena).live_bytes == code.len);
    /* The arena's memory lives as long as its blocks. */
    OK(gaia_jit_arena_free(arena));
    CHECK(call(gaia_jit_block_start(block)) == 7);
    OK(gaia_jit_block_free(block));
}

static void data(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_data *table, *variable;
    const uint8_t primes[] = {2, 3, 5, 7};
    OK(gaia_jit_data_new(arena, primes, sizeof primes, 64, false, &table));
    OK(gaia_jit_data_new(arena, NULL, 8, 0, true, &variable));
    CHECK((uintptr_t)gaia_jit_data_start(table) % 64 == 0 && gaia_jit_data_len(table) == 4);
    CHECK(memcmp(gaia_jit_data_start(table), primes, sizeof primes) == 0);
    CHECK(gaia_jit_data_start_mut(table) == NULL);
    CHECK(gaia_jit_data_start_mut(variable) == gaia_jit_data_start(variable));
    CHECK(*(const uint64_t *)gaia_jit_data_start(variable) == 0);
    *(uint64_t *)gaia_jit_data_start_mut(variable) = 9;
    CHECK(stats_of(arena).data_blocks == 2);
    OK(gaia_jit_data_free(table));
    OK(gaia_jit_data_free(variable));
    free_empty(arena);
}

void test_publish(void) {
    CHECK(strlen(gaia_jit_version()) >= 5);
    in_mode(GAIA_JIT_MODE_FLIP);
    in_mode(GAIA_JIT_MODE_DUAL_MAP);
    in_mode(GAIA_JIT_MODE_PER_THREAD);
    in_mode(GAIA_JIT_MODE_FILE_WRITE);
    settings();
    aligned_and_shrunk();
    data();
}
