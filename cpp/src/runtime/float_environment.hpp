// Sets the floating-point state the kernels assume, and puts the caller's back: round to nearest, no traps, subnormals
// flushed to zero (they would slow a step by a factor of ten and more). Scalars that no kernel computes keep them.
#pragma once

#include <cstdint>

#if defined(__x86_64__) || defined(_M_X64)
#include <xmmintrin.h>
#endif

namespace fusedopt {

enum class Subnormals { flushed, kept };

class FloatEnvironment {
public:
#if defined(__x86_64__) || defined(_M_X64)
    explicit FloatEnvironment(Subnormals subnormals = Subnormals::flushed) : saved_(_mm_getcsr()) {
        constexpr unsigned masked_and_nearest = 0x1f80, flush_results = 0x8000, flush_operands = 0x0040;
        const unsigned flush = subnormals == Subnormals::flushed ? flush_results | flush_operands : 0;
        _mm_setcsr(masked_and_nearest | flush);
    }
    ~FloatEnvironment() { _mm_setcsr(saved_); }

private:
    unsigned saved_;
#elif defined(__aarch64__)
    explicit FloatEnvironment(Subnormals subnormals = Subnormals::flushed) {
        const std::uint64_t flush = std::uint64_t{subnormals == Subnormals::flushed} << 24;
        __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
        __asm__ volatile("msr fpcr, %0" : : "r"(flush));
    }
    ~FloatEnvironment() { __asm__ volatile("msr fpcr, %0" : : "r"(saved_)); }

private:
    std::uint64_t saved_;
#endif

public:
#if !defined(__x86_64__) && !defined(_M_X64) && !defined(__aarch64__)
    explicit FloatEnvironment(Subnormals = Subnormals::flushed) {}
#endif
    FloatEnvironment(const FloatEnvironment&) = delete;
    FloatEnvironment& operator=(const FloatEnvironment&) = delete;
};

/// compute(x) in this state, whatever the caller's. A compiler may move arithmetic across a change of the
/// floating-point state, but no access to a volatile variable.
template <class Compute>
double compute_in(Subnormals subnormals, double x, const Compute& compute) {
    const FloatEnvironment environment(subnormals);
    const volatile double argument = x;
    volatile double value = compute(argument);
    return value;
}

}  // namespace fusedopt
