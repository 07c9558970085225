// Arenas and blocks of gaia-jit that free themselves, and errors that are thrown.
//
// A program copies what it needs of this. The names are the C interface's, whose header says all about the functions.
#ifndef RAII_HPP
#define RAII_HPP

#include <gaia_jit.h>

#include <cstddef>
#include <cstdint>
#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

namespace jit {

class Error : public std::runtime_error {
public:
    explicit Error(gaia_jit_status status)
        : std::runtime_error(std::string("gaia-jit: ") + gaia_jit_last_error_message()), status(status) {}

    const gaia_jit_status status;
};

inline void check(gaia_jit_status status) {
    if (status != GAIA_JIT_STATUS_OK) {
        throw Error(status);
    }
}

struct Free {
    void operator()(gaia_jit_arena *arena) const { gaia_jit_arena_free(arena); }
    void operator()(gaia_jit_batch *batch) const { gaia_jit_batch_free(batch); }
    void operator()(gaia_jit_block *block) const { gaia_jit_block_free(block); }
    void operator()(gaia_jit_builder *builder) const { gaia_jit_builder_free(builder); }
};

// A published function. Its space is free when this goes.
class Block {
public:
    Block() = default;
    explicit Block(gaia_jit_block *handle) : handle_(handle) {}

    const void *start() const { return gaia_jit_block_start(handle_.get()); }
    std::size_t size() const { return gaia_jit_block_len(handle_.get()); }

    // The function, as the type that its code is written for: `block.as<int(int)>()(7)`.
    template <typename Signature>
    Signature *as() const {
        return reinterpret_cast<Signature *>(reinterpret_cast<std::uintptr_t>(start()));
    }

private:
    std::unique_ptr<gaia_jit_block, Free> handle_;
};

// Address space that functions are packed into. Blocks may outlive it.
class Arena {
public:
    explicit Arena(std::size_t capacity, gaia_jit_mode mode = GAIA_JIT_MODE_FLIP) {
        gaia_jit_builder *settings;
        gaia_jit_arena *arena;
        check(gaia_jit_builder_new(&settings));
        const std::unique_ptr<gaia_jit_builder, Free> builder(settings);
        check(gaia_jit_builder_capacity(settings, capacity));
        check(gaia_jit_builder_mode(settings, mode));
        check(gaia_jit_builder_build(settings, &arena));
        handle_.reset(arena);
    }

    const gaia_jit_arena *handle() const { return handle_.get(); }

    gaia_jit_stats stats() const {
        gaia_jit_stats stats;
        check(gaia_jit_arena_stats(handle_.get(), &stats));
        return stats;
    }

    // Publishes code that is the same wherever it lies.
    Block publish(const std::uint8_t *code, std::size_t size, std::size_t align) const {
        gaia_jit_block *block;
        check(gaia_jit_publish(handle(), code, size, align, 0, nullptr, &block));
        return Block(block);
    }

    // Publishes a function of at most `size` bytes, aligned as said, or by 16 for 0. `write` is called with the address at which it will run, and where
    // its bytes go; it returns how many they are. What it throws goes on from here, but not through the library.
    template <typename Write>
    Block publish_with(std::size_t size, std::size_t align, Write write) const {
        struct Call {
            Write &write;
            std::exception_ptr thrown;
        } call{write, nullptr};
        const auto forward = [](void *context, const void *address, std::uint8_t *bytes, std::size_t) noexcept {
            Call &call = *static_cast<Call *>(context);
            try {
                return static_cast<std::size_t>(call.write(address, bytes));
            } catch (...) {
                call.thrown = std::current_exception();
                return std::size_t(0);
            }
        };
        gaia_jit_block *block;
        const gaia_jit_status status = gaia_jit_publish_with(handle(), size, align, 0, nullptr, forward, &call, &block);
        if (call.thrown) {
            std::rethrow_exception(call.thrown);
        }
        check(status);
        return Block(block);
    }

private:
    std::unique_ptr<gaia_jit_arena, Free> handle_;
};

// Functions that are published together, all or none, and know each other's addresses before.
class Batch {
public:
    explicit Batch(const Arena &arena) {
        gaia_jit_batch *batch;
        check(gaia_jit_batch_new(arena.handle(), &batch));
        handle_.reset(batch);
    }

    std::size_t reserve(std::size_t size) {
        std::size_t slot;
        check(gaia_jit_batch_reserve(handle_.get(), size, 0, 0, &slot));
        return slot;
    }

    const void *address(std::size_t slot) const { return gaia_jit_batch_address(handle_.get(), slot); }

    // Where the slot's bytes are written, until the next slot is reserved.
    std::uint8_t *bytes(std::size_t slot) {
        std::uint8_t *bytes;
        check(gaia_jit_batch_bytes(handle_.get(), slot, &bytes, nullptr));
        return bytes;
    }

    // Blocks by slot. The batch is empty then.
    std::vector<Block> publish() {
        std::vector<gaia_jit_block *> handles(gaia_jit_batch_len(handle_.get()));
        std::vector<Block> blocks;
        blocks.reserve(handles.size());
        check(gaia_jit_batch_publish(handle_.get(), handles.data(), handles.size(), nullptr, 0));
        for (gaia_jit_block *handle : handles) {
            blocks.emplace_back(handle);
        }
        return blocks;
    }

private:
    std::unique_ptr<gaia_jit_batch, Free> handle_;
};

}  // namespace jit

#endif
