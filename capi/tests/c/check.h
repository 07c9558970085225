/* What the tests have in common: checks, and machine code for this processor. */
#ifndef CHECK_H
#define CHECK_H

#include <gaia_jit.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK(condition) \
    do { \
        if (!(condition)) { \
            fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
            exit(1); \
        } \
    } while (0)

/* The call succeeds. */
#define OK(call) \
    do { \
        gaia_jit_status status_ = (call); \
        if (status_ != GAIA_JIT_STATUS_OK) { \
            fprintf(stderr, "%s:%d: %s: status %d: %s\n", __FILE__, __LINE__, #call, (int)status_, \
                    gaia_jit_last_error_message()); \
            exit(1); \
        } \
    } while (0)

/* The call fails with this status and a message in which this stands. */
#define FAILS(status, part, call) \
    do { \
        gaia_jit_status status_ = (call); \
        if (status_ != (status) || strstr(gaia_jit_last_error_message(), (part)) == NULL) { \
            fprintf(stderr, "%s:%d: %s: status %d: %s\n", __FILE__, __LINE__, #call, (int)status_, \
                    gaia_jit_last_error_message()); \
            exit(1); \
        } \
    } while (0)

/* The statements hold in a forked child. Emulators of one process let children inherit what they are not to. */
#define IN_A_CHILD(...) \
    do { \
        int child_status_; \
        if (getenv("GAIA_TEST_EMULATED") != NULL) { \
            printf("NOT RUN: %s: a forked child, emulated\n", __FILE__); \
            break; \
        } \
        pid_t child_ = fork(); \
        CHECK(child_ >= 0); \
        if (child_ == 0) { \
            __VA_ARGS__ \
            _exit(0); \
        } \
        CHECK(waitpid(child_, &child_status_, 0) == child_ && WIFEXITED(child_status_)); \
        CHECK(WEXITSTATUS(child_status_) == 0); \
    } while (0)

typedef int (*function)(void);

/* ISO C has no conversion from an address of data to one of a function, but has one from a number. */
static inline int call(const void *address) {
    return ((function)(uintptr_t)address)();
}

#define CODE_MAX 16

typedef struct code {
    uint8_t bytes[CODE_MAX];
    size_t len;
} code;

static inline code words(uint32_t first, uint32_t second, uint32_t third, uint32_t fourth, size_t count) {
    uint32_t all[4] = {0, 0, 0, 0};
    code made = {{0}, 0};
    all[0] = first;
    all[1] = second;
    all[2] = third;
    all[3] = fourth;
    made.len = 4 * count;
    memcpy(made.bytes, all, made.len);
    return made;
}

/* `returns(n)` is code that returns n, up to 65535. `jump()` is one branch, to be linked with JUMP at JUMP_AT with
 * JUMP_ADDEND. `load()` returns an int of the data that is linked with LOAD at LOAD_AT, and, where it is not 0, LOAD_2
 * at LOAD_2_AT. `jump_by(distance)` is a branch that is whole. `patchable()` is code that returns 1, and 2 once the four
 * bytes at PATCH_AT are PATCH. */
#if defined(__x86_64__)
static inline code returns(unsigned n) {
    code made = {{0xb8, 0, 0, 0, 0, 0xc3}, 6}; /* mov eax, n; ret */
    made.bytes[1] = (uint8_t)n;
    made.bytes[2] = (uint8_t)(n >> 8);
    return made;
}
static inline code jump(void) {
    code made = {{0xe9, 0, 0, 0, 0}, 5}; /* jmp */
    return made;
}
static inline code load(void) {
    code made = {{0x8b, 0x05, 0, 0, 0, 0, 0xc3}, 7}; /* mov eax, [rip + 0]; ret */
    return made;
}
static inline code jump_by(intptr_t distance) {
    code made = {{0xe9, 0, 0, 0, 0}, 5};
    const int32_t from_the_end = (int32_t)(distance - 5);
    memcpy(made.bytes + 1, &from_the_end, sizeof from_the_end);
    return made;
}
static inline code patchable(void) {
    code made = {{0x90, 0x90, 0x90, 0xb8, 1, 0, 0, 0, 0xc3}, 9}; /* nop, three times; mov eax, 1; ret */
    return made;
}
#define PATCH_AT 4
#define PATCH 2u
#define JUMP GAIA_JIT_RELOC_X86_CALL32
#define JUMP_AT 1
#define JUMP_ADDEND (-4)
#define LOAD GAIA_JIT_RELOC_X86_PC32
#define LOAD_AT 2
#define LOAD_ADDEND (-4)
#define LOAD_2 0
#define LOAD_2_AT 0
#define FOREIGN GAIA_JIT_RELOC_ARM64_CALL26
#elif defined(__aarch64__)
static inline code returns(unsigned n) {
    return words(0x52800000u | (uint32_t)n << 5, 0xd65f03c0u, 0, 0, 2); /* mov w0, n; ret */
}
static inline code jump(void) {
    return words(0x14000000u, 0, 0, 0, 1); /* b */
}
static inline code load(void) {
    return words(0x90000000u, 0xb9400000u, 0xd65f03c0u, 0, 3); /* adrp x0; ldr w0, [x0]; ret */
}
static inline code jump_by(intptr_t distance) {
    return words(0x14000000u | ((uint32_t)(distance / 4) & 0x03ffffffu), 0, 0, 0, 1);
}
static inline code patchable(void) {
    return words(0x52800020u, 0x14000002u, 0x52800040u, 0xd65f03c0u, 4); /* mov w0, 1; b 8; mov w0, 2; ret */
}
#define PATCH_AT 4
#define PATCH 0xd503201fu /* nop */
#define JUMP GAIA_JIT_RELOC_ARM64_JUMP26
#define JUMP_AT 0
#define JUMP_ADDEND 0
#define LOAD GAIA_JIT_RELOC_ARM64_ADR_PREL_PG_HI21
#define LOAD_AT 0
#define LOAD_ADDEND 0
#define LOAD_2 GAIA_JIT_RELOC_ARM64_LDST32_ABS_LO12_NC
#define LOAD_2_AT 4
#define FOREIGN GAIA_JIT_RELOC_X86_CALL32
#else
#error "no machine code for this processor here"
#endif

/* An arena of 1 MiB. */
static inline gaia_jit_arena *small_arena(void) {
    gaia_jit_builder *builder;
    gaia_jit_arena *arena;
    OK(gaia_jit_builder_new(&builder));
    OK(gaia_jit_builder_capacity(builder, 1 << 20));
    OK(gaia_jit_builder_build(builder, &arena));
    OK(gaia_jit_builder_free(builder));
    return arena;
}

/* The same in a mode. NULL, and a line that says so, where the system does not have it. */
static inline gaia_jit_arena *arena_in(gaia_jit_mode mode) {
    gaia_jit_builder *builder;
    gaia_jit_arena *arena;
    OK(gaia_jit_builder_new(&builder));
    OK(gaia_jit_builder_capacity(builder, 1 << 20));
    OK(gaia_jit_builder_mode(builder, mode));
    gaia_jit_status status = gaia_jit_builder_build(builder, &arena);
    OK(gaia_jit_builder_free(builder));
    if (status == GAIA_JIT_STATUS_UNSUPPORTED) {
        CHECK(arena == NULL);
        printf("NOT RUN: mode %d: %s\n", (int)mode, gaia_jit_last_error_message());
        return NULL;
    }
    OK(status);
    return arena;
}

static inline gaia_jit_block *publish(const gaia_jit_arena *arena, code code, uint64_t tag) {
    gaia_jit_block *block;
    OK(gaia_jit_publish(arena, code.bytes, code.len, 0, tag, "test", &block));
    return block;
}

static inline gaia_jit_stats stats_of(const gaia_jit_arena *arena) {
    gaia_jit_stats stats;
    OK(gaia_jit_arena_stats(arena, &stats));
    return stats;
}

/* Nothing is left in the arena, which goes too. */
static inline void free_empty(gaia_jit_arena *arena) {
    gaia_jit_stats stats = stats_of(arena);
    CHECK(stats.free_bytes == stats.capacity);
    CHECK(stats.live_blocks == 0 && stats.pending_blocks == 0 && stats.batch_bytes == 0);
    CHECK(stats.data_blocks == 0 && stats.data_bytes == 0);
    OK(gaia_jit_arena_free(arena));
}

void test_batch(void);
void test_errors(void);
void test_guard(void);
void test_lookup(void);
void test_memory(void);
void test_patch(void);
void test_publish(void);
void test_publish_with(void);
void test_redirect(void);
void test_threads(void);

#endif
