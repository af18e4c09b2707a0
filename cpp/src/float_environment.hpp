// Sets the floating-point state the kernels assume, and puts the caller's back: round to nearest, no traps, subnormals
// flushed to zero (they would slow a step by a factor of ten and more).
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace fusedopt {

class FloatEnvironment {
public:
#if defined(__x86_64__) || defined(_M_X64)
    FloatEnvironment() : saved_(_mm_getcsr()) {
        constexpr unsigned masked_and_nearest = 0x1f80, flush_results = 0x8000, flush_operands = 0x0040;
        _mm_setcsr(masked_and_nearest | flush_results | flush_operands);
    }
    ~FloatEnvironment() { _mm_setcsr(saved_); }

private:
    unsigned saved_;
#elif defined(__aarch64__)
    FloatEnvironment() {
        constexpr std::uint64_t flush = std::uint64_t{1} << 24;
        __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
        __asm__ volatile("msr fpcr, %0" : : "r"(flush));
    }
    ~FloatEnvironment() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }

private:
    std::uint64_t saved_;
#endif

public:
    FloatEnvironment(const FloatEnvironment&) = delete;
    FloatEnvironment& operator=(const FloatEnvironment&) = delete;
};

}  // namespace fusedopt
