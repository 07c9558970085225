/* A compiler of expressions in x and y to x86-64: numbers, + - * /, brackets, and gcd(a, b), which is a function of
 * this program.
 *
 *     cc -I include examples/calculator.c libgaia_jit.a -lpthread -lm -ldl
 *
 * Each expression becomes a function `int64_t f(int64_t x, int64_t y)` in the arena. Hundreds of them come and go in a
 * loop, and the arena does not grow. */
#include <gaia_jit.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t (*formula)(int64_t x, int64_t y);

static void check(gaia_jit_status status) {
    if (status != GAIA_JIT_STATUS_OK) {
        fprintf(stderr, "status %d: %s\n", (int)status, gaia_jit_last_error_message());
        exit(1);
    }
}

static int64_t gcd(int64_t a, int64_t b) {
    while (b != 0) {
        int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a < 0 ? -a : a;
}

/* The code of one function while it is made, and where in it calls of `gcd` are. */
enum { CODE_MAX = 1024, CALLS_MAX = 16 };
typedef struct compiler {
    const char *text;
    const char *error;
    uint8_t code[CODE_MAX];
    size_t len;
    size_t calls[CALLS_MAX];
    size_t call_count;
    /* Values on the stack, beside the frame: it is aligned before a call. */
    unsigned depth;
} compiler;

static void fail(compiler *c, const char *error) {
    if (c->error == NULL) {
        c->error = error;
    }
}

static void emit(compiler *c, const char *bytes, size_t len) {
    if (c->len + len > CODE_MAX) {
        fail(c, "too long");
        return;
    }
    memcpy(c->code + c->len, bytes, len);
    c->len += len;
}

/* Instructions, as a string. The last byte of the literal is not one of them. */
#define EMIT(c, bytes) emit((c), (bytes), sizeof(bytes) - 1)

static void push(compiler *c) {
    EMIT(c, "\x50"); /* push rax */
    c->depth++;
}

/* The value pushed last comes to rax, and the newest one, which is there, to rcx. */
static void pop_both(compiler *c) {
    EMIT(c, "\x48\x89\xc1" /* mov rcx, rax */ "\x58" /* pop rax */);
    c->depth--;
}

static char next(compiler *c) {
    while (*c->text == ' ') {
        c->text++;
    }
    return *c->text;
}

static int take(compiler *c, char wanted) {
    if (next(c) != wanted) {
        return 0;
    }
    c->text++;
    return 1;
}

static void expect(compiler *c, char wanted) {
    if (!take(c, wanted)) {
        fail(c, "a bracket or comma is missing");
    }
}

static void sum(compiler *c);

static void call_gcd(compiler *c) {
    expect(c, '(');
    sum(c);
    push(c);
    expect(c, ',');
    sum(c);
    expect(c, ')');
    pop_both(c);
    EMIT(c, "\x48\x89\xc7" /* mov rdi, rax */ "\x48\x89\xce" /* mov rsi, rcx */);
    if (c->depth % 2 == 1) {
        EMIT(c, "\x48\x83\xec\x08"); /* sub rsp, 8 */
    }
    if (c->call_count == CALLS_MAX) {
        fail(c, "too many calls");
        return;
    }
    EMIT(c, "\xe8"); /* call */
    c->calls[c->call_count++] = c->len;
    EMIT(c, "\0\0\0\0");
    if (c->depth % 2 == 1) {
        EMIT(c, "\x48\x83\xc4\x08"); /* add rsp, 8 */
    }
}

static void factor(compiler *c) {
    char first = next(c);
    if (first >= '0' && first <= '9') {
        char *end;
        int64_t number = strtoll(c->text, &end, 10);
        c->text = end;
        EMIT(c, "\x48\xb8"); /* mov rax, number */
        emit(c, (const char *)&number, sizeof number);
    } else if (take(c, 'x')) {
        EMIT(c, "\x48\x8b\x45\xf8"); /* mov rax, [rbp - 8] */
    } else if (take(c, 'y')) {
        EMIT(c, "\x48\x8b\x45\xf0"); /* mov rax, [rbp - 16] */
    } else if (take(c, '-')) {
        factor(c);
        EMIT(c, "\x48\xf7\xd8"); /* neg rax */
    } else if (take(c, '(')) {
        sum(c);
        expect(c, ')');
    } else if (strncmp(c->text, "gcd", 3) == 0) {
        c->text += 3;
        call_gcd(c);
    } else {
        fail(c, "a value is missing");
    }
}

static void product(compiler *c) {
    factor(c);
    while (c->error == NULL) {
        if (take(c, '*')) {
            push(c);
            factor(c);
            pop_both(c);
            EMIT(c, "\x48\x0f\xaf\xc1"); /* imul rax, rcx */
        } else if (take(c, '/')) {
            push(c);
            factor(c);
            pop_both(c);
            /* What is divided by 0 is 0: test rcx, rcx; jz zero; cqo; idiv rcx; jmp done; zero: xor eax, eax; done: */
            EMIT(c, "\x48\x85\xc9\x74\x07\x48\x99\x48\xf7\xf9\xeb\x02\x31\xc0");
        } else {
            return;
        }
    }
}

static void sum(compiler *c) {
    product(c);
    while (c->error == NULL) {
        int minus;
        if (take(c, '+')) {
            minus = 0;
        } else if (take(c, '-')) {
            minus = 1;
        } else {
            return;
        }
        push(c);
        product(c);
        pop_both(c);
        if (minus) {
            EMIT(c, "\x48\x29\xc8"); /* sub rax, rcx */
        } else {
            EMIT(c, "\x48\x01\xc8"); /* add rax, rcx */
        }
    }
}

/* Compiles an expression. NULL, and a message on stderr, if it is none. */
static gaia_jit_block *compile(const gaia_jit_arena *arena, const char *text, uint64_t tag) {
    compiler c = {0};
    c.text = text;
    EMIT(&c, "\x55" /* push rbp */ "\x48\x89\xe5" /* mov rbp, rsp */ "\x57" /* push rdi */ "\x56" /* push rsi */);
    sum(&c);
    EMIT(&c, "\xc9" /* leave */ "\xc3" /* ret */);
    if (next(&c) != '\0') {
        fail(&c, "more than an expression");
    }
    if (c.error != NULL) {
        fprintf(stderr, "%s: %s, at \"%s\"\n", text, c.error, c.text);
        return NULL;
    }
    /* A batch of one function, as it refers to a function outside. All calls share one stub, should that be far. */
    gaia_jit_batch *batch;
    gaia_jit_block *block;
    size_t slot;
    uint8_t *bytes;
    check(gaia_jit_batch_new(arena, &batch));
    check(gaia_jit_batch_reserve(batch, c.len, 0, c.call_count > 0, &slot));
    check(gaia_jit_batch_set_tag(batch, slot, tag));
    check(gaia_jit_batch_set_name(batch, slot, text));
    check(gaia_jit_batch_bytes(batch, slot, &bytes, NULL));
    memcpy(bytes, c.code, c.len);
    for (size_t call = 0; call < c.call_count; call++) {
        const void *target = (const void *)(uintptr_t)&gcd;
        check(gaia_jit_batch_link_address(batch, slot, c.calls[call], GAIA_JIT_RELOC_X86_CALL32, target, -4));
    }
    check(gaia_jit_batch_publish(batch, &block, 1, NULL, 0));
    check(gaia_jit_batch_free(batch));
    return block;
}

static int64_t evaluate(const gaia_jit_block *block, int64_t x, int64_t y) {
    return ((formula)(uintptr_t)gaia_jit_block_start(block))(x, y);
}

static void expect_value(const gaia_jit_arena *arena, const char *text, int64_t x, int64_t y, int64_t wanted) {
    gaia_jit_block *block = compile(arena, text, 0);
    if (block == NULL) {
        exit(1);
    }
    int64_t value = evaluate(block, x, y);
    printf("%s with x = %" PRId64 ", y = %" PRId64 ": %" PRId64 "\n", text, x, y, value);
    if (value != wanted) {
        fprintf(stderr, "it should be %" PRId64 "\n", wanted);
        exit(1);
    }
    check(gaia_jit_block_free(block));
}

/* Compiles many functions, of which the oldest go as new ones come. */
static void churn(const gaia_jit_arena *arena) {
    enum { ROUNDS = 2000, KEPT = 200 };
    static gaia_jit_block *kept[KEPT];
    gaia_jit_stats early, late;
    for (int round = 0; round < ROUNDS; round++) {
        char text[64];
        snprintf(text, sizeof text, "(x + %d) * gcd(y, %d) - x", round, round % 37 + 1);
        gaia_jit_block **place = &kept[round % KEPT];
        check(gaia_jit_block_free(*place));
        *place = compile(arena, text, (uint64_t)round);
        if (*place == NULL || evaluate(*place, 3, 36) != (3 + round) * gcd(36, round % 37 + 1) - 3) {
            fprintf(stderr, "%s is wrong\n", text);
            exit(1);
        }
        if (round == 2 * KEPT) {
            check(gaia_jit_arena_stats(arena, &early));
        }
    }
    check(gaia_jit_arena_stats(arena, &late));
    printf("%d functions, %zu live: %zu KiB of memory early, %zu KiB late\n", ROUNDS, late.live_blocks,
           early.resident_bytes >> 10, late.resident_bytes >> 10);
    if (late.live_blocks != KEPT || late.live_bytes != early.live_bytes || late.resident_bytes > early.resident_bytes) {
        fprintf(stderr, "the arena grew\n");
        exit(1);
    }
    for (int n = 0; n < KEPT; n++) {
        check(gaia_jit_block_free(kept[n]));
    }
}

int main(void) {
#if defined(__x86_64__) && !defined(_WIN32)
    gaia_jit_arena *arena;
    gaia_jit_stats stats;
    check(gaia_jit_arena_new(&arena));
    expect_value(arena, "1 + 2 * 3", 0, 0, 7);
    expect_value(arena, "(x + 1) * (x - 1) / y", 10, 3, 33);
    expect_value(arena, "-x - -y", 5, 7, 2);
    expect_value(arena, "x / (y - 7)", 5, 7, 0);
    expect_value(arena, "gcd(x * 6, y * 4)", 2, 9, 12);
    expect_value(arena, "1 + x * gcd(x + gcd(x, y), 2 * y)", 6, 9, 55);
    if (compile(arena, "x + (y", 0) != NULL || compile(arena, "2 x", 0) != NULL) {
        return 1;
    }
    churn(arena);
    check(gaia_jit_arena_stats(arena, &stats));
    if (stats.live_blocks != 0 || stats.free_bytes != stats.capacity) {
        return 1;
    }
    check(gaia_jit_arena_free(arena));
    puts("nothing is left");
#else
    /* Used by nothing here. */
    (void)expect_value;
    (void)churn;
    puts("NOT RUN: this makes code for x86-64, in the calling convention of Unix");
#endif
    return 0;
}
