// asmjit assembles, and gaia-jit keeps the code: no `JitRuntime`, and so no memory that is writable and executable.
//
//     c++ -std=c++17 -O2 -I include examples/asmjit.cpp libgaia_jit.a -lasmjit -lrt -lpthread -lm -ldl
//
// For x86-64, with the asmjit of Debian 12 (`libasmjit-dev`). Functions come from asmjit's `Assembler` and `Compiler`,
// call the program and each other, and go one by one. What either library refuses is shown in its own words.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <vector>

#include "asmjit_code.hpp"

namespace x86 = asmjit::x86;
using asmjit::CodeHolder;
using jit::check_asmjit;

namespace {

// What asmjit finds wrong with an instruction is thrown where the instruction stands.
class Thrower : public asmjit::ErrorHandler {
public:
    void handleError(asmjit::Error, const char *message, asmjit::BaseEmitter *) override {
        throw jit::AsmjitError(message);
    }
};

// Code for this machine, which will lie wherever there is room.
class Code : public CodeHolder {
public:
    Code() {
        check_asmjit(init(asmjit::Environment::host()));
        setErrorHandler(&thrower_);
    }

private:
    Thrower thrower_;
};

void expect(bool holds, const char *what) {
    if (!holds) {
        std::fprintf(stderr, "not so: %s\n", what);
        std::exit(1);
    }
}

extern "C" std::int64_t gcd_of_the_program(std::int64_t a, std::int64_t b) {
    while (b != 0) {
        const std::int64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a;
}

// `Assembler`: one call out of the code. asmjit keeps an address beside the code in case the program is far away.
jit::Block assemble_gcd(const jit::Arena &arena) {
    Code code;
    x86::Assembler a(&code);
    a.sub(x86::rsp, 8);
    a.call(asmjit::imm(reinterpret_cast<std::uintptr_t>(&gcd_of_the_program)));
    a.add(x86::rsp, 8);
    a.ret();
    return jit::add(arena, code);
}

// `Compiler`: registers and the frame are asmjit's affair. It begins with a constant that is added to the sum.
jit::Block compile_sum(const jit::Arena &arena, std::int64_t first) {
    Code code;
    x86::Compiler c(&code);
    asmjit::FuncNode *function = c.addFunc(asmjit::FuncSignatureT<std::int64_t, const std::int64_t *, std::size_t>());
    const x86::Gp numbers = c.newIntPtr("numbers"), count = c.newIntPtr("count"), sum = c.newInt64("sum");
    const asmjit::Label loop = c.newLabel(), done = c.newLabel();
    function->setArg(0, numbers);
    function->setArg(1, count);
    c.mov(sum, c.newInt64Const(asmjit::ConstPoolScope::kLocal, first));
    c.test(count, count);
    c.jz(done);
    c.bind(loop);
    c.add(sum, x86::qword_ptr(numbers));
    c.add(numbers, 8);
    c.dec(count);
    c.jnz(loop);
    c.bind(done);
    c.ret(sum);
    c.endFunc();
    check_asmjit(c.finalize());
    return jit::add(arena, code);
}

// `bool f(unsigned n)`: `at_zero` for 0, and what `other` says of n - 1 for the rest.
void parity(CodeHolder &code, bool at_zero, const void *other) {
    x86::Assembler a(&code);
    const asmjit::Label rest = a.newLabel();
    a.test(x86::edi, x86::edi);
    a.jnz(rest);
    a.mov(x86::eax, int(at_zero));
    a.ret();
    a.bind(rest);
    a.dec(x86::edi);
    a.jmp(asmjit::imm(reinterpret_cast<std::uintptr_t>(other)));
}

// Two functions that call each other. Each is assembled for the address of the other, which a batch knows before there
// is code.
std::vector<jit::Block> assemble_parity(const jit::Arena &arena) {
    Code for_its_size;
    parity(for_its_size, true, nullptr);
    const std::size_t most = jit::lay_out(for_its_size);
    jit::Batch batch(arena);
    const std::size_t even = batch.reserve(most), odd = batch.reserve(most);
    for (const std::size_t slot : {even, odd}) {
        Code code;
        parity(code, slot == even, batch.address(slot == even ? odd : even));
        expect(jit::lay_out(code) <= most, "the code is as long as it was");
        jit::write_at(code, batch.address(slot), batch.bytes(slot));
    }
    return batch.publish();
}

// Runs what is bound to fail, and shows what is said.
template <typename Failing>
void refuse(const char *what, Failing failing) {
    try {
        failing();
    } catch (const std::runtime_error &error) {
        std::printf("%s: %s\n", what, error.what());
        return;
    }
    expect(false, what);
}

void refusals(const jit::Arena &arena) {
    refuse("an instruction that there is not", [] {
        Code code;
        x86::Assembler(&code).mov(x86::eax, x86::rbx);
    });
    refuse("a label that is nowhere", [&] {
        Code code;
        x86::Assembler a(&code);
        a.jmp(a.newLabel());
        jit::add(arena, code);
    });
    refuse("no code at all", [&] {
        Code code;
        jit::add(arena, code);
    });
    refuse("more than there is room for", [&] {
        std::vector<jit::Block> blocks;
        for (;;) {
            Code code;
            x86::Assembler a(&code);
            for (unsigned n = 0; n < 100'000; n++) {
                a.nop();
            }
            a.ret();
            blocks.push_back(jit::add(arena, code));
        }
    });
}

void all(const jit::Arena &arena) {
    const jit::Block gcd = assemble_gcd(arena);
    const std::int64_t twelve = gcd.as<std::int64_t(std::int64_t, std::int64_t)>()(48, 36);
    std::printf("gcd(48, 36) = %d, by code of %zu bytes\n", int(twelve), gcd.size());
    expect(twelve == 12, "gcd");

    std::vector<std::int64_t> numbers;
    for (int n = 1; n <= 100; n++) {
        numbers.push_back(n);
    }
    const jit::Block sum = compile_sum(arena, 0);
    const std::int64_t in_all = sum.as<std::int64_t(const std::int64_t *, std::size_t)>()(numbers.data(), 100);
    std::printf("sum of 1 to 100 = %d\n", int(in_all));
    expect(in_all == 5050, "sum");

    const std::vector<jit::Block> parity = assemble_parity(arena);
    const bool even = parity[0].as<bool(unsigned)>()(1000), odd = parity[1].as<bool(unsigned)>()(1000);
    std::printf("is_even(1000) = %d, is_odd(1000) = %d\n", int(even), int(odd));
    expect(even && !odd, "parity");

    // Functions come and go, and the space of those that went is used again.
    std::vector<jit::Block> kept(100);
    for (int round = 0; round < 5'000; round++) {
        jit::Block &place = kept[std::size_t(round) % kept.size()];
        place = compile_sum(arena, round);
        expect(place.as<std::int64_t(const std::int64_t *, std::size_t)>()(numbers.data(), 1) == round + 1, "a new sum");
    }
    std::printf("5000 functions came, %zu stayed\n", kept.size());
    refusals(arena);
}

}  // namespace

int main() {
    try {
        const jit::Arena arena(1 << 20);
        all(arena);
        const gaia_jit_stats stats = arena.stats();
        expect(stats.live_blocks == 0 && stats.free_bytes == stats.capacity, "nothing is left");
        std::puts("nothing is left in the arena");
    } catch (const std::runtime_error &error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
}
