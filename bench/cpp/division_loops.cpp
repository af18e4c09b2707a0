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

template <class Root, class Quotient>
void adam(float* w, const float* g, float* m, float* v, std::int64_t size) {
    const Vector alpha = all(1e-3f), one_minus_beta_1 = all(0.1f), one_minus_beta_2 = all(1e-3f), epsilon = all(1e-7f);
    const Vector keep = all(0.9999f), scale = all(1.0f), clip = all(1e30f), minus_clip = all(-1e30f);
    for (std::int64_t i = 0; i < size; i += lanes) {
        const Vector x = FUSEDOPT_OP(max)(minus_clip, FUSEDOPT_OP(min)(clip, FUSEDOPT_OP(loadu)(g + i) * scale));
        Vector first = FUSEDOPT_OP(loadu)(m + i), second = FUSEDOPT_OP(loadu)(v + i);
        first += (x - first) * one_minus_beta_1;
        second += (x * x - second) * one_minus_beta_2;
        const Vector update = Quotient::quotient(alpha * first, Root::root(second) + epsilon);
        FUSEDOPT_OP(storeu)(m + i, first);
        FUSEDOPT_OP(storeu)(v + i, second);
        FUSEDOPT_OP(storeu)(w + i, FUSEDOPT_OP(loadu)(w + i) * keep - update);
    }
}

}  // namespace

const Way FUSEDOPT_WIDE::ways[4] = {
    {"hardware", adam<Hardware, Hardware>},
    {"refined quotient", adam<Hardware, Refined>},
    {"refined root", adam<Refined, Hardware>},
    {"refined both", adam<Refined, Refined>},
};
