// Compiled once per width, with the flags of that width alone; so no inline function of a library's may be used here.
// Estimates are refined by Newton steps and one last correction of the residual, whose rounding is that of the
// hardware: P. Markstein, "Computation of elementary functions on the IBM RISC System/6000 processor", 1990. Zeros,
// infinities and subnormal numbers are left wrong: to mend them would only cost more.
#include <immintrin.h>

#include "division.hpp"

namespace {

#ifdef __AVX512F__
#define FUSEDOPT_WIDE wide_512
#define FUSEDOPT_OP(name) _mm512_##name##_ps
#define FUSEDOPT_ESTIMATE(name) _mm512_##name##14_ps
using Vector = __m512;
#else
#define FUSEDOPT_WIDE wide_256
#define FUSEDOPT_OP(name) _mm256_##name##_ps
#define FUSEDOPT_ESTIMATE(name) _mm256_##name##_ps
using Vector = __m256;
#endif

constexpr std::int64_t lanes = sizeof(Vector) / sizeof(float);

Vector all(float x) {
    return FUSEDOPT_OP(set1)(x);
}

/// a b + c, rounded once.
Vector fma(Vector a, Vector b, Vector c) {
    return FUSEDOPT_OP(fmadd)(a, b, c);
}

/// c - a b, rounded once.
Vector residual(Vector a, Vector b, Vector c) {
    return FUSEDOPT_OP(fnmadd)(a, b, c);
}

struct Hardware {
    static Vector quotient(Vector a, Vector b) { return a / b; }
    static Vector root(Vector x) { return FUSEDOPT_OP(sqrt)(x); }
};

struct Refined {
    static Vector quotient(Vector a, Vector b) {
        Vector y = FUSEDOPT_ESTIMATE(rcp)(b);
        for (int i = 0; i < 2; ++i) y = fma(residual(b, y, all(1.0f)), y, y);
        const Vector q = a * y;
        return fma(residual(b, q, a), y, q);
    }

    static Vector root(Vector x) {
        const Vector y = FUSEDOPT_ESTIMATE(rsqrt)(x);
        Vector root = x * y, half = y * all(0.5f);
        const Vector error = residual(root, half, all(0.5f));
        root = fma(root, error, root);
        half = fma(half, error, half);
        // Its estimate has 12 bits, that of 512 has 14.
        if constexpr (sizeof(Vector) == sizeof(__m256)) root = fma(residual(root, root, x), half, root);
        return fma(residual(root, root, x), half, root);
    }
};

struct Adam {
    Vector alpha = all(1e-3f), one_minus_beta_1 = all(0.1f), one_minus_beta_2 = all(1e-3f), epsilon = all(1e-7f);
    Vector keep = all(0.9999f), scale = all(1.0f);

    template <class Root, class Quotient>
    void step(float* w, const float* g, float* m, float* v) const {
        const Vector x = FUSEDOPT_OP(loadu)(g) * scale;
        Vector first = FUSEDOPT_OP(loadu)(m), second = FUSEDOPT_OP(loadu)(v);
        first += (x - first) * one_minus_beta_1;
        second += (x * x - second) * one_minus_beta_2;
        const Vector update = Quotient::quotient(alpha * first, Root::root(second) + epsilon);
        FUSEDOPT_OP(storeu)(m, first);
        FUSEDOPT_OP(storeu)(v, second);
        FUSEDOPT_OP(storeu)(w, FUSEDOPT_OP(loadu)(w) * keep - update);
    }
};

/// Every second vector with another quotient.
template <class Root, class Quotient, class OtherQuotient = Quotient>
void adam(float* w, const float* g, float* m, float* v, std::int64_t size) {
    const Adam adam;
    for (std::int64_t i = 0; i < size; i += 2 * lanes) {
        const std::int64_t j = i + lanes;
        adam.step<Root, Quotient>(w + i, g + i, m + i, v + i);
        adam.step<Root, OtherQuotient>(w + j, g + j, m + j, v + j);
    }
}

/// A division waits for a root, as in Adam's step, and for nothing of the round before.
template <int divisions, int roots>
void busy(std::int64_t size) {
    Vector a = all(1.37f), b = all(2.11f);
    for (std::int64_t i = 0; i < size; i += lanes) {
        // The compiler must not know the operands, nor that nobody wants the results.
        asm volatile("" : "+x"(a), "+x"(b));
        if (roots > 1) asm volatile("" ::"x"(FUSEDOPT_OP(sqrt)(a)));
        const Vector divisor = roots > 0 ? FUSEDOPT_OP(sqrt)(b) : b;
        asm volatile("" ::"x"(divisions > 0 ? a / divisor : divisor));
    }
}

}  // namespace

const Way FUSEDOPT_WIDE::ways[5] = {
    {"hardware", adam<Hardware, Hardware>},        {"every second quotient refined", adam<Hardware, Hardware, Refined>},
    {"refined quotient", adam<Hardware, Refined>}, {"refined root", adam<Refined, Hardware>},
    {"refined both", adam<Refined, Refined>},
};

const Units FUSEDOPT_WIDE::units[4] = {
    {"only a division", busy<1, 0>},
    {"only a root", busy<0, 1>},
    {"only a division and a root", busy<1, 1>},
    {"only a division and two roots", busy<1, 2>},
};
