/* Threads that publish, call, look up and free in one arena, each under guards; and messages, which are a thread's own.
 */
#include "check.h"

#include <pthread.h>

enum { THREADS = 4, ROUNDS = 300, KEPT = 16 };

static void *work(void *shared) {
    const gaia_jit_arena *arena = shared;
    gaia_jit_block *kept[KEPT] = {NULL};
    CHECK(gaia_jit_last_error_message()[0] == '\0');
    for (unsigned round = 0; round < ROUNDS; round++) {
        gaia_jit_guard guard;
        gaia_jit_found found;
        gaia_jit_block **place = &kept[round % KEPT];
        OK(gaia_jit_pin(arena, &guard));
        OK(gaia_jit_block_free(*place));
        *place = publish(arena, returns(round), round);
        CHECK(call(gaia_jit_block_start(*place)) == (int)round);
        OK(gaia_jit_lookup(arena, gaia_jit_block_start(*place), &found));
        CHECK(found.start == gaia_jit_block_start(*place) && found.tag == round);
        OK(gaia_jit_unpin(&guard));
    }
    FAILS(GAIA_JIT_STATUS_NULL_POINTER, "block is NULL", gaia_jit_block_shrink(NULL, 1));
    for (unsigned n = 0; n < KEPT; n++) {
        OK(gaia_jit_block_free(kept[n]));
    }
    return NULL;
}

void test_threads(void) {
    gaia_jit_arena *arena = small_arena();
    pthread_t threads[THREADS];
    FAILS(GAIA_JIT_STATUS_NULL_POINTER, "memory is NULL", gaia_jit_memory_make_writable(NULL));
    for (unsigned n = 0; n < THREADS; n++) {
        CHECK(pthread_create(&threads[n], NULL, work, arena) == 0);
    }
    for (unsigned n = 0; n < THREADS; n++) {
        CHECK(pthread_join(threads[n], NULL) == 0);
    }
    CHECK(strcmp(gaia_jit_last_error_message(), "memory is NULL") == 0);
    free_empty(arena);
}
