// What it costs to keep what asmjit assembled: asmjit's own allocator beside gaia-jit.
//
//     c++ -std=c++17 -O2 -I include examples/asmjit_bench.cpp libgaia_jit.a -lasmjit -lrt -lpthread -lm -ldl
//     ./a.out [--rounds 15]
//
// All keepers take the same assembled functions, in the same order, by the same steps: lay out, relocate, copy. A round
// measures each of them once, one after the other, and the next round begins with another one, so that what else the
// machine does hits all alike. Figures are medians of the rounds, and ratios are medians of the ratios within a round.
// Memory is what the process has more after than before (`Pss`, which counts a page once however often it is mapped).
#include <malloc.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "asmjit_code.hpp"

namespace x86 = asmjit::x86;
using asmjit::CodeHolder;
using asmjit::JitAllocatorOptions;

namespace {

constexpr unsigned VARIETY = 256;
constexpr std::size_t CAPACITY = 64 << 20;

// Functions that return their own number, of 16 to 1,000 bytes, small ones more often. None needs relocation, so that
// each can be added any number of times.
std::deque<CodeHolder> assemble() {
    std::deque<CodeHolder> all;
    std::mt19937 random(1);
    for (unsigned n = 0; n < VARIETY; n++) {
        CodeHolder &code = all.emplace_back();
        jit::check_asmjit(code.init(asmjit::Environment::host()));
        x86::Assembler a(&code);
        a.mov(x86::eax, n);
        a.ret();
        const std::size_t size = 16u << (random() % 6);
        while (code.codeSize() < size + random() % size) {
            jit::check_asmjit(a.int3());
        }
    }
    return all;
}

// Somebody who keeps functions, each in a place that has a number.
class Keeper {
public:
    virtual ~Keeper() = default;
    // Adds a function at a place, after the one that is there was released.
    virtual void put(std::size_t place, CodeHolder &code) = 0;
    virtual unsigned call(std::size_t place) const = 0;
    // Adds many, at places from 0 on.
    virtual void fill(std::size_t count, std::deque<CodeHolder> &codes) {
        for (std::size_t n = 0; n < count; n++) {
            put(n, codes[n % VARIETY]);
        }
    }
};

class Asmjit : public Keeper {
public:
    Asmjit(std::size_t places, JitAllocatorOptions options) : runtime_(params(options)), kept_(places) {}

    void put(std::size_t place, CodeHolder &code) override {
        if (kept_[place] != nullptr) {
            jit::check_asmjit(runtime_.release(kept_[place]));
        }
        jit::check_asmjit(runtime_.add(&kept_[place], &code));
    }

    unsigned call(std::size_t place) const override { return kept_[place](); }

private:
    static const asmjit::JitAllocator::CreateParams *params(JitAllocatorOptions options) {
        static asmjit::JitAllocator::CreateParams params;
        params.options = options;
        return &params;
    }

    asmjit::JitRuntime runtime_;
    std::vector<unsigned (*)()> kept_;
};

// How code gets into an arena: by itself, by itself and written for its address, or many at once.
enum class Way { publish, publish_with, batch };

class Gaia : public Keeper {
public:
    Gaia(std::size_t places, gaia_jit_mode mode, Way way) : arena_(CAPACITY, mode), kept_(places), way_(way) {}

    void put(std::size_t place, CodeHolder &code) override {
        kept_[place] = jit::Block();
        kept_[place] = way_ == Way::publish_with ? jit::add_relocated(arena_, code) : jit::add(arena_, code);
    }

    unsigned call(std::size_t place) const override { return kept_[place].as<unsigned()>()(); }

    void fill(std::size_t count, std::deque<CodeHolder> &codes) override {
        if (way_ != Way::batch) {
            return Keeper::fill(count, codes);
        }
        jit::Batch batch(arena_);
        for (std::size_t n = 0; n < count; n++) {
            CodeHolder &code = codes[n % VARIETY];
            const std::size_t slot = batch.reserve(jit::lay_out(code));
            jit::write_at(code, batch.address(slot), batch.bytes(slot));
        }
        std::vector<jit::Block> blocks = batch.publish();
        std::move(blocks.begin(), blocks.end(), kept_.begin());
    }

private:
    jit::Arena arena_;
    std::vector<jit::Block> kept_;
    Way way_;
};

struct Contestant {
    const char *name;
    std::function<std::unique_ptr<Keeper>(std::size_t places)> keeper;
    // For replacing it is the same as another one.
    bool fills_only = false;
};

std::vector<Contestant> contestants() {
    const auto asmjit = [](JitAllocatorOptions options) {
        return [=](std::size_t places) { return std::make_unique<Asmjit>(places, options); };
    };
    const auto gaia = [](gaia_jit_mode mode, Way way) {
        return [=](std::size_t places) { return std::make_unique<Gaia>(places, mode, way); };
    };
    std::vector<Contestant> all{
        {"asmjit, two views", asmjit(JitAllocatorOptions::kUseDualMapping)},
        {"asmjit, default", asmjit(JitAllocatorOptions::kNone)},
        {"gaia-jit, DualMap", gaia(GAIA_JIT_MODE_DUAL_MAP, Way::publish)},
        {"gaia-jit, DualMap, publish_with", gaia(GAIA_JIT_MODE_DUAL_MAP, Way::publish_with)},
        {"gaia-jit, DualMap, batch", gaia(GAIA_JIT_MODE_DUAL_MAP, Way::batch), true},
        {"gaia-jit, PerThread", gaia(GAIA_JIT_MODE_PER_THREAD, Way::publish)},
        {"gaia-jit, Flip", gaia(GAIA_JIT_MODE_FLIP, Way::publish)},
        {"gaia-jit, Flip, batch", gaia(GAIA_JIT_MODE_FLIP, Way::batch), true},
    };
    const auto missing = [](const Contestant &contestant) {
        try {
            contestant.keeper(1);
            return false;
        } catch (const jit::Error &error) {
            std::printf("NOT RUN: %s: %s\n", contestant.name, error.what());
            return true;
        }
    };
    all.erase(std::remove_if(all.begin(), all.end(), missing), all.end());
    return all;
}

double nanoseconds(std::size_t operations, const std::function<void()> &work) {
    const auto start = std::chrono::steady_clock::now();
    work();
    const std::chrono::duration<double, std::nano> taken = std::chrono::steady_clock::now() - start;
    return taken.count() / double(operations);
}

double median(std::vector<double> values) {
    std::sort(values.begin(), values.end());
    return values[values.size() / 2];
}

// A table with a row for each contestant: the median, and its ratio to the first two.
using Measure = std::function<double(std::size_t contestant)>;
void table(const std::string &title, const std::vector<Contestant> &all, std::size_t rounds, const Measure &measure) {
    std::vector<std::vector<double>> figures(all.size());
    for (std::size_t round = 0; round < rounds; round++) {
        for (std::size_t n = 0; n < all.size(); n++) {
            const std::size_t turn = (n + round) % all.size();
            figures[turn].push_back(measure(turn));
        }
    }
    std::printf("\n%-34s %12s %22s %20s\n", title.c_str(), "median", "of asmjit, two views", "of asmjit, default");
    for (std::size_t n = 0; n < all.size(); n++) {
        const auto ratio = [&](std::size_t to) {
            std::vector<double> ratios;
            for (std::size_t round = 0; round < rounds; round++) {
                ratios.push_back(figures[n][round] / figures[to][round]);
            }
            return median(ratios);
        };
        std::printf("%-34s %12.1f %22.2f %20.2f\n", all[n].name, median(figures[n]), ratio(0), ratio(1));
    }
    std::fflush(stdout);
}

void check_all(const Keeper &keeper, std::size_t count, const std::function<unsigned(std::size_t)> &number) {
    for (std::size_t n = 0; n < count; n++) {
        if (keeper.call(n) != number(n)) {
            std::fprintf(stderr, "function %zu is not what was added\n", n);
            std::exit(1);
        }
    }
}

void adding(const std::vector<Contestant> &all, std::size_t rounds, std::deque<CodeHolder> &codes, std::size_t count) {
    table("ns, adding " + std::to_string(count), all, rounds, [&](std::size_t contestant) {
        const auto keeper = all[contestant].keeper(count);
        const double taken = nanoseconds(count, [&] { keeper->fill(count, codes); });
        check_all(*keeper, count, [](std::size_t n) { return unsigned(n % VARIETY); });
        return taken;
    });
}

void replacing(std::vector<Contestant> all, std::size_t rounds, std::deque<CodeHolder> &codes, std::size_t count) {
    const auto fills_only = [](const Contestant &contestant) { return contestant.fills_only; };
    all.erase(std::remove_if(all.begin(), all.end(), fills_only), all.end());
    constexpr std::size_t REPLACED = 5'000;
    struct State {
        std::unique_ptr<Keeper> keeper;
        std::vector<unsigned> numbers;
        std::mt19937 random{7};
    };
    std::vector<State> states;
    const auto replace = [&](State &state, std::size_t times) {
        for (std::size_t n = 0; n < times; n++) {
            const std::size_t place = state.random() % state.numbers.size();
            state.numbers[place] = unsigned(state.random() % VARIETY);
            state.keeper->put(place, codes[state.numbers[place]]);
        }
    };
    for (const Contestant &contestant : all) {
        State &state = states.emplace_back();
        state.keeper = contestant.keeper(count);
        state.keeper->fill(count, codes);
        for (std::size_t n = 0; n < count; n++) {
            state.numbers.push_back(unsigned(n % VARIETY));
        }
        // As it is after a while.
        replace(state, 2 * count);
    }
    table("ns, replacing one of " + std::to_string(count), all, rounds, [&](std::size_t contestant) {
        State &state = states[contestant];
        return nanoseconds(REPLACED, [&] { replace(state, REPLACED); });
    });
    for (const State &state : states) {
        check_all(*state.keeper, count, [&](std::size_t n) { return state.numbers[n]; });
    }
}

double resident() {
    std::ifstream file("/proc/self/smaps_rollup");
    for (std::string line; std::getline(file, line);) {
        if (line.rfind("Pss:", 0) == 0) {
            return 1024 * std::strtod(line.c_str() + 4, nullptr);
        }
    }
    std::fprintf(stderr, "the system does not say what is resident\n");
    std::exit(1);
}

void memory(const std::vector<Contestant> &all, std::size_t rounds, std::deque<CodeHolder> &codes, std::size_t count) {
    std::size_t bytes = 0;
    for (std::size_t n = 0; n < count; n++) {
        bytes += codes[n % VARIETY].codeSize();
    }
    std::printf("\n%zu functions have %.1f bytes each of code\n", count, double(bytes) / double(count));
    table("bytes each, resident, of " + std::to_string(count), all, rounds, [&](std::size_t contestant) {
        malloc_trim(0);
        const double before = resident();
        const auto keeper = all[contestant].keeper(count);
        keeper->fill(count, codes);
        return (resident() - before) / double(count);
    });
}

}  // namespace

int main(int count, char **arguments) {
    std::size_t rounds = 15;
    if (count == 3 && std::strcmp(arguments[1], "--rounds") == 0) {
        rounds = std::strtoul(arguments[2], nullptr, 10);
    }
    if (rounds == 0 || (count != 1 && count != 3)) {
        std::fprintf(stderr, "usage: %s [--rounds N]\n", arguments[0]);
        return 2;
    }
    try {
        std::deque<CodeHolder> codes = assemble();
        const std::vector<Contestant> all = contestants();
        memory(all, std::min<std::size_t>(rounds, 3), codes, 10'000);
        adding(all, rounds, codes, 1'000);
        adding(all, rounds, codes, 10'000);
        replacing(all, rounds, codes, 1'000);
        replacing(all, rounds, codes, 10'000);
    } catch (const std::runtime_error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
