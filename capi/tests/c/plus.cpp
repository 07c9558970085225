// The header in C++, with handles that free themselves.
#include <gaia_jit.h>

#include <cstdio>
#include <memory>
#include <stdexcept>
#include <thread>
#include <vector>

#include "check.h"

namespace {

struct Free {
    void operator()(gaia_jit_arena *arena) const { gaia_jit_arena_free(arena); }
    void operator()(gaia_jit_block *block) const { gaia_jit_block_free(block); }
};
using Arena = std::unique_ptr<gaia_jit_arena, Free>;
using Block = std::unique_ptr<gaia_jit_block, Free>;

void check(gaia_jit_status status) {
    if (status != GAIA_JIT_STATUS_OK) {
        throw std::runtime_error(gaia_jit_last_error_message());
    }
}

Block publish_returning(const Arena &arena, unsigned n) {
    gaia_jit_block *block;
    const code made = returns(n);
    check(gaia_jit_publish(arena.get(), made.bytes, made.len, 0, n, nullptr, &block));
    return Block(block);
}

}  // namespace

int main() {
    gaia_jit_arena *made;
    check(gaia_jit_arena_new(&made));
    const Arena arena(made);
    std::vector<Block> blocks;
    for (unsigned n = 0; n < 100; n++) {
        blocks.push_back(publish_returning(arena, n));
    }
    std::thread([&] {
        for (unsigned n = 0; n < 100; n++) {
            CHECK(call(gaia_jit_block_start(blocks[n].get())) == static_cast<int>(n));
        }
    }).join();
    bool thrown = false;
    try {
        gaia_jit_block *block;
        check(gaia_jit_publish(arena.get(), nullptr, 0, 0, 0, nullptr, &block));
    } catch (const std::runtime_error &error) {
        thrown = error.what() == std::string("zero bytes asked for");
    }
    CHECK(thrown);
    blocks.clear();
    CHECK(stats_of(arena.get()).live_blocks == 0);
    return 0;
}
