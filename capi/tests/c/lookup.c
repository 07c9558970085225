/* From an address to the function that it is in. */
#include "check.h"

enum { COUNT = 150 };

void test_lookup(void) {
    gaia_jit_arena *arena = small_arena();
    gaia_jit_block *blocks[COUNT];
    const void *addresses[COUNT + 1];
    gaia_jit_found found[COUNT + 1];
    size_t len = returns(0).len;
    for (unsigned n = 0; n < COUNT; n++) {
        blocks[n] = publish(arena, returns(n), 1000 + n);
        addresses[n] = (const char *)gaia_jit_block_start(blocks[n]) + n % len;
    }
    addresses[COUNT] = &arena;
    OK(gaia_jit_lookup(arena, addresses[3], found));
    CHECK(found->start == gaia_jit_block_start(blocks[3]) && found->len == len && found->tag == 1003);
    OK(gaia_jit_lookup(arena, (const char *)gaia_jit_block_start(blocks[3]) + len, found));
    CHECK(found->start == NULL && found->len == 0 && found->tag == 0);
    /* More than are looked up at once. */
    OK(gaia_jit_lookup_many(arena, addresses, COUNT + 1, found));
    for (unsigned n = 0; n < COUNT; n++) {
        CHECK(found[n].start == gaia_jit_block_start(blocks[n]) && found[n].tag == 1000 + n);
    }
    CHECK(found[COUNT].start == NULL);
    for (unsigned n = 0; n < COUNT; n++) {
        OK(gaia_jit_block_free(blocks[n]));
    }
    OK(gaia_jit_lookup(arena, addresses[3], found));
    CHECK(found->start == NULL);
    free_empty(arena);
}
