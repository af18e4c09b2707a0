// float16 and bfloat16 to and from the compute types, rounding to nearest even. The one place for intrinsics.
#pragma once

#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "kernel/kernel.hpp"
#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

FUSEDOPT_INLINE std::uint32_t bits_of(float x) {
    return __builtin_bit_cast(std::uint32_t, x);
}
FUSEDOPT_INLINE float float_of(std::uint32_t bits) {
    return __builtin_bit_cast(float, bits);
}

struct Bfloat16 {
    std::uint16_t bits;
};

FUSEDOPT_INLINE float widen_bfloat16(std::uint16_t x) {
    return float_of(static_cast<std::uint32_t>(x) << 16);
}

FUSEDOPT_INLINE std::uint16_t narrow_bfloat16(float x) {
    const std::uint32_t bits = bits_of(x);
    const std::uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    const std::uint32_t quiet_nan = (bits >> 16) | 0x40u;
    return static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? quiet_nan : rounded);
}

#if defined(__aarch64__)

FUSEDOPT_INLINE float widen_float16(std::uint16_t x) {
    return static_cast<float>(__builtin_bit_cast(__fp16, x));
}

FUSEDOPT_INLINE std::uint16_t narrow_float16(float x) {
    return __builtin_bit_cast(std::uint16_t, static_cast<__fp16>(x));
}

#elif defined(__F16C__)

FUSEDOPT_INLINE float widen_float16(std::uint16_t x) {
    return _cvtsh_ss(x);
}

FUSEDOPT_INLINE std::uint16_t narrow_float16(float x) {
    // _cvtss_sh is a macro in Clang, with a compound literal that is not C++.
    const __m128i half = _mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
    return static_cast<std::uint16_t>(_mm_cvtsi128_si32(half));
}

#else

FUSEDOPT_INLINE float widen_float16(std::uint16_t x) {
    const std::uint32_t sign = static_cast<std::uint32_t>(x & 0x8000u) << 16;
    const std::uint32_t magnitude = x & 0x7fffu;
    const std::uint32_t normal = (magnitude << 13) + (112u << 23);  // 112: difference of the exponents' biases
    const std::uint32_t special = (magnitude << 13) | 0x7f800000u;
    const std::uint32_t quiet = magnitude > 0x7c00u ? 0x400000u : 0u;
    const std::uint32_t subnormal = bits_of(static_cast<float>(static_cast<std::int32_t>(magnitude)) * 0x1p-24f);
    const std::uint32_t finite = magnitude < 0x400u ? subnormal : normal;
    return float_of((magnitude < 0x7c00u ? finite : (special | quiet)) | sign);
}

FUSEDOPT_INLINE std::uint16_t narrow_float16(float x) {
    const std::uint32_t bits = bits_of(x);
    const std::uint32_t sign = (bits >> 16) & 0x8000u;
    const std::uint32_t magnitude = bits & 0x7fffffffu;
    const std::uint32_t normal = (magnitude + 0xfffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
    // Adding 0.5 lets the adder round to multiples of 2^-24, float16's smallest subnormal.
    const std::uint32_t subnormal = bits_of(float_of(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t nan = 0x7e00u | ((magnitude >> 13) & 0x3ffu);
    const std::uint32_t small = magnitude < 0x38800000u ? subnormal : normal;
    const std::uint32_t finite = magnitude < 0x47800000u ? small : 0x7c00u;
    return static_cast<std::uint16_t>((magnitude > 0x7f800000u ? nan : finite) | sign);
}

#endif

inline void widen_float16(const std::uint16_t* in, std::int64_t n, float* out) {
    std::int64_t i = 0;
#if defined(__F16C__)
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        _mm512_storeu_ps(out + i, _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in + i))));
    }
#endif
    for (; i + 8 <= n; i += 8) {
        _mm256_storeu_ps(out + i, _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i))));
    }
    for (; i < n; ++i) {
        out[i] = widen_float16(in[i]);
    }
#else
#pragma omp simd
    for (i = 0; i < n; ++i) {
        out[i] = widen_float16(in[i]);
    }
#endif
}

inline void narrow_float16(const float* in, std::int64_t n, std::uint16_t* out) {
    std::int64_t i = 0;
#if defined(__F16C__)
#if defined(__AVX512F__)
    for (; i + 16 <= n; i += 16) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + i),
                            _mm512_cvtps_ph(_mm512_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
    }
#endif
    for (; i + 8 <= n; i += 8) {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i),
                         _mm256_cvtps_ph(_mm256_loadu_ps(in + i), _MM_FROUND_TO_NEAREST_INT));
    }
    for (; i < n; ++i) {
        out[i] = narrow_float16(in[i]);
    }
#else
#pragma omp simd
    for (i = 0; i < n; ++i) {
        out[i] = narrow_float16(in[i]);
    }
#endif
}

inline void widen_bfloat16(const std::uint16_t* in, std::int64_t n, float* out) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        out[i] = widen_bfloat16(in[i]);
    }
}

inline void narrow_bfloat16(const float* in, std::int64_t n, std::uint16_t* out) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        out[i] = narrow_bfloat16(in[i]);
    }
}

FUSEDOPT_INLINE void widen_here(Element element, const void* in, std::int64_t n, float* out) {
    const auto* bits = static_cast<const std::uint16_t*>(in);
    if (element == Element::float16) {
        widen_float16(bits, n, out);
    } else {
        widen_bfloat16(bits, n, out);
    }
}

FUSEDOPT_NOINLINE void widen(Element element, const void* in, std::int64_t n, float* out) {
    widen_here(element, in, n, out);
}

#if defined(__AVX512F__)
/// n of sixteen elements; the others are 0.
template <Element element>
FUSEDOPT_INLINE void widen_line(const std::uint16_t* in, std::int64_t n, float* out) {
    const __m256i line = n == 16 ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(in))
                                 : _mm256_maskz_loadu_epi16(static_cast<__mmask16>((1u << n) - 1), in);
    if constexpr (element == Element::float16) {
        _mm512_storeu_ps(out, _mm512_cvtph_ps(line));
    } else {
        _mm512_storeu_si512(out, _mm512_slli_epi32(_mm512_cvtepu16_epi32(line), 16));
    }
}
#endif

FUSEDOPT_NOINLINE void narrow(Element element, const float* in, std::int64_t n, void* out) {
    auto* bits = static_cast<std::uint16_t*>(out);
    if (element == Element::float16) {
        narrow_float16(in, n, bits);
    } else {
        narrow_bfloat16(in, n, bits);
    }
}

/// Lanes of doubles: one register of the level, but two of v2.
#if defined(__AVX512F__)
inline constexpr int doubles = 8;
#else
inline constexpr int doubles = 4;
#endif
using Doubles __attribute__((vector_size(doubles * sizeof(double)))) = double;

FUSEDOPT_INLINE Doubles to_double(const double* x) {
    Doubles row;
    __builtin_memcpy(&row, x, sizeof(row));
    return row;
}

FUSEDOPT_INLINE Doubles to_double(const float* x) {
#if defined(__AVX512F__)
    return __builtin_bit_cast(Doubles, _mm512_cvtps_pd(_mm256_loadu_ps(x)));
#elif defined(__AVX__)
    return __builtin_bit_cast(Doubles, _mm256_cvtps_pd(_mm_loadu_ps(x)));
#else
    float __attribute__((vector_size(doubles * sizeof(float)))) row;
    __builtin_memcpy(&row, x, sizeof(row));
    return __builtin_convertvector(row, Doubles);
#endif
}

/// sum + x^2 for numbers of float32, whose squares double holds exactly: fused or not, the result is the same.
FUSEDOPT_INLINE Doubles add_exact_square(Doubles sum, Doubles x) {
#if defined(__AVX512F__)
    return __builtin_bit_cast(Doubles, _mm512_fmadd_pd(__builtin_bit_cast(__m512d, x), __builtin_bit_cast(__m512d, x),
                                                       __builtin_bit_cast(__m512d, sum)));
#elif defined(__FMA__)
    return __builtin_bit_cast(Doubles, _mm256_fmadd_pd(__builtin_bit_cast(__m256d, x), __builtin_bit_cast(__m256d, x),
                                                       __builtin_bit_cast(__m256d, sum)));
#else
    return sum + x * x;
#endif
}

/// A double that got its bits from a number of float32, moved up by 29 places, is this factor too small: the exponents'
/// biases differ. An infinity or NaN becomes a number of 2^128 or more.
inline constexpr double bias_factor = 0x1p896;

#if defined(__F16C__)

#if defined(__AVX512F__)
FUSEDOPT_INLINE __m512 widen_register(const std::uint16_t* in) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in)));
}
FUSEDOPT_INLINE __m512 odd_to_even(__m512 x) {
    return _mm512_movehdup_ps(x);
}
FUSEDOPT_INLINE Doubles move_even_up(__m512 x) {
    return __builtin_bit_cast(Doubles, _mm512_mul_epu32(_mm512_castps_si512(x), _mm512_set1_epi64(1 << 29)));
}
#else
FUSEDOPT_INLINE __m256 widen_register(const std::uint16_t* in) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(in)));
}
FUSEDOPT_INLINE __m256 odd_to_even(__m256 x) {
    return _mm256_movehdup_ps(x);
}
FUSEDOPT_INLINE Doubles move_even_up(__m256 x) {
    return __builtin_bit_cast(Doubles, _mm256_mul_epu32(_mm256_castps_si256(x), _mm256_set1_epi64x(1 << 29)));
}
#endif

/// Adds the squares of a register of numbers of float16, over bias_factor, the even ones and the odd ones apart.
/// float32 holds them exactly. A product of integers moves half a register at once. Conversions would take longer,
/// because a processor begins only one of them per cycle.
FUSEDOPT_INLINE void add_squares(const std::uint16_t* in, Doubles& even, Doubles& odd) {
    const auto x = widen_register(in);
    const auto square = x * x;
    even += move_even_up(square);
    odd += move_even_up(odd_to_even(square));
}

#endif

/// Adds the squares of sixteen numbers of bfloat16, that of number i to double i / 4 of the sum i mod 4. Their bits are
/// float32's upper ones, so that they can be moved without a conversion. Two sums share a register of 512 bits.
FUSEDOPT_INLINE void add_squares(const Bfloat16* in, Doubles* sums) {
    using Words __attribute__((vector_size(sizeof(Doubles)))) = std::uint64_t;
    const auto add = [](Doubles & sum, Words moved) __attribute__((always_inline)) {
        const Words magnitude = Words{} + 0x0fffe00000000000;
        sum = add_exact_square(sum, __builtin_bit_cast(Doubles, moved & magnitude) * bias_factor);
    };
#if defined(__AVX512F__)
    const __m512i words = _mm512_broadcast_i64x4(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(in)));
    const auto rotated = [&](long long low, long long high) __attribute__((always_inline)) {
        const __m512i places = _mm512_setr_epi64(low, low, low, low, high, high, high, high);
        return __builtin_bit_cast(Words, _mm512_rolv_epi64(words, places));
    };
    add(sums[0], rotated(45, 29));
    add(sums[1], rotated(13, 61));
#else
    Words words;
    __builtin_memcpy(&words, in, sizeof(words));
    add(sums[0], words << 45);
    add(sums[1], words << 29);
    add(sums[2], words << 13);
    add(sums[3], words >> 3);
#endif
}

template <class From, class To>
inline void cast(const From* in, std::int64_t n, To* out) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        out[i] = static_cast<To>(in[i]);
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
