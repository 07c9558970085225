/* One block of memory for one piece of code. */
#include "check.h"

void test_memory(void) {
    gaia_jit_memory *memory;
    size_t first, second;
    code one = returns(1), two = returns(2);
    static uint8_t large[1 << 20];
    OK(gaia_jit_memory_new(100, &memory));
    CHECK(gaia_jit_memory_capacity(memory) >= 4096 && gaia_jit_memory_len(memory) == 0);
    OK(gaia_jit_memory_write(memory, one.bytes, one.len, &first));
    /* Where alignment matters, it is a multiple of it. */
    OK(gaia_jit_memory_write(memory, two.bytes, two.len, &second));
    CHECK(first == 0 && second == one.len && gaia_jit_memory_len(memory) == one.len + two.len);
    OK(gaia_jit_memory_make_executable(memory));
    const char *start = (const char *)gaia_jit_memory_start(memory);
    CHECK(call(start) == 1 && call(start + second) == 2);
    OK(gaia_jit_memory_make_writable(memory));
    OK(gaia_jit_memory_write(memory, one.bytes, one.len, NULL));
    OK(gaia_jit_memory_make_executable(memory));
    CHECK(call(start + second) == 2 && call(start + one.len + two.len) == 1);
    FAILS(GAIA_JIT_STATUS_PAST_CAPACITY, "do not lie inside",
          gaia_jit_memory_write(memory, large, sizeof large, NULL));
    OK(gaia_jit_memory_free(memory));
    FAILS(GAIA_JIT_STATUS_ZERO_SIZE, "zero bytes", gaia_jit_memory_new(0, &memory));
    CHECK(memory == NULL);
}
