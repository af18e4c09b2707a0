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

inline void widen(Element element, const void* in, std::int64_t n, float* out) {
    const auto* bits = static_cast<const std::uint16_t*>(in);
    if (element == Element::float16) {
        widen_float16(bits, n, out);
    } else {
        widen_bfloat16(bits, n, out);
    }
}

inline void narrow(Element element, const float* in, std::int64_t n, void* out) {
    auto* bits = static_cast<std::uint16_t*>(out);
    if (element == Element::float16) {
        narrow_float16(in, n, bits);
    } else {
        narrow_bfloat16(in, n, bits);
    }
}

/// Four lanes of doubles: one register of level v3.
using Quad __attribute__((vector_size(4 * sizeof(double)))) = double;

FUSEDOPT_INLINE Quad to_double(const double* x) {
    Quad quad;
    __builtin_memcpy(&quad, x, sizeof(quad));
    return quad;
}

FUSEDOPT_INLINE Quad to_double(const float* x) {
#if defined(__AVX__)
    return __builtin_bit_cast(Quad, _mm256_cvtps_pd(_mm_loadu_ps(x)));
#else
    float __attribute__((vector_size(4 * sizeof(float)))) row;
    __builtin_memcpy(&row, x, sizeof(row));
    return __builtin_convertvector(row, Quad);
#endif
}

/// sum + x^2 for numbers of float32, whose squares double holds exactly: fused or not, the result is the same.
FUSEDOPT_INLINE Quad add_exact_square(Quad sum, Quad x) {
#if defined(__FMA__)
    return __builtin_bit_cast(Quad, _mm256_fmadd_pd(__builtin_bit_cast(__m256d, x), __builtin_bit_cast(__m256d, x),
                                                    __builtin_bit_cast(__m256d, sum)));
#else
    return sum + x * x;
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
