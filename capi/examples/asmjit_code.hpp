// What asmjit assembled, in an arena of gaia-jit.
#ifndef ASMJIT_CODE_HPP
#define ASMJIT_CODE_HPP

#include <asmjit/x86.h>

#include "raii.hpp"

namespace jit {

class AsmjitError : public std::runtime_error {
public:
    explicit AsmjitError(const char *message) : std::runtime_error(std::string("asmjit: ") + message) {}
};

inline void check_asmjit(asmjit::Error error) {
    if (error != asmjit::kErrorOk) {
        throw AsmjitError(asmjit::DebugUtils::errorAsString(error));
    }
}

// Sections get their places behind one another, and labels their values: all but the address is known then. Returns the
// bytes that the code will take at most.
inline std::size_t lay_out(asmjit::CodeHolder &code) {
    check_asmjit(code.flatten());
    check_asmjit(code.resolveUnresolvedLinks());
    if (code.hasUnresolvedLinks()) {
        throw AsmjitError("a label is used and bound nowhere");
    }
    return code.codeSize();
}

// Writes code that was laid out to `bytes`, to be run at `address`. Returns how many bytes it took: fewer than before
// where functions outside came to be in reach, as the table of their addresses is not needed then.
inline std::size_t write_at(asmjit::CodeHolder &code, const void *address, std::uint8_t *bytes) {
    check_asmjit(code.relocateToBase(reinterpret_cast<std::uintptr_t>(address)));
    const std::size_t size = code.codeSize();
    check_asmjit(code.copyFlattenedData(bytes, size, asmjit::CopySectionFlags::kPadSectionBuffer));
    return size;
}

// One function that is written for its address, as asmjit's `JitRuntime::add` does it. Constants of 32 and 64 bytes among
// the code are aligned only if the code is.
inline Block add_relocated(const Arena &arena, asmjit::CodeHolder &code, std::size_t align = 16) {
    return arena.publish_with(
        lay_out(code), align,
        [&](const void *address, std::uint8_t *bytes) { return write_at(code, address, bytes); });
}

// One function. What is the same wherever it lies is published straight from asmjit's buffer.
inline Block add(const Arena &arena, asmjit::CodeHolder &code, std::size_t align = 16) {
    const std::size_t size = lay_out(code);
    const asmjit::CodeBuffer &buffer = code.textSection()->buffer();
    if (code.hasRelocEntries() || size != buffer.size()) {
        return add_relocated(arena, code, align);
    }
    return arena.publish(buffer.data(), size, align);
}

}  // namespace jit

#endif
