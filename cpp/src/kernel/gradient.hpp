// How a tile of a gradient reaches the compute type T: straight from the user's memory, or through a buffer in L1.
#pragma once

#include "kernel/convert.hpp"
#include "kernel/kernel.hpp"
#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

// To prefetch further ahead slows a step by up to 20 % on AMD Zen 4 and 25 % on Zen 5. Not to prefetch at all slows it
// by up to 10 %.
inline constexpr int prefetch_bytes = 384;
inline constexpr int far_prefetch_bytes = 4096;

template <class T>
inline constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));

// If a level has masks for elements, a part of a register takes no longer than a whole one. AVX2 can write by mask as
// well, but AMD's processors take longer for that than for one element after the other.
#if defined(__AVX512F__)
template <class T>
inline constexpr bool reads_by_mask = true;
inline constexpr bool writes_by_mask = true;
#elif defined(__AVX2__)
template <class T>
inline constexpr bool reads_by_mask = sizeof(T) >= 4;
inline constexpr bool writes_by_mask = false;
#else
template <class T>
inline constexpr bool reads_by_mask = false;
inline constexpr bool writes_by_mask = false;
#endif

template <class T>
FUSEDOPT_INLINE void prefetch(const T* address) {
    __builtin_prefetch(reinterpret_cast<const char*>(address) + prefetch_bytes);
}

/// The same for another distance.
FUSEDOPT_INLINE void prefetch_now(const void* address, std::int64_t bytes = 0) {
    __builtin_prefetch(static_cast<const char*>(address) + bytes);
}

/// For a sweep that does little with each line of memory: a processor's own prefetching, which ends with a page, is
/// late.
template <class T>
FUSEDOPT_INLINE void prefetch_far(const T* address) {
    __builtin_prefetch(reinterpret_cast<const char*>(address) + far_prefetch_bytes);
}

/// Calls elements(begin, end) for each cache line of n numbers; the last one may be short.
template <class T, class Elements>
FUSEDOPT_INLINE void for_each_line(std::int64_t n, const Elements& elements) {
    std::int64_t i = 0;
    for (; i + line<T> <= n; i += line<T>) elements(i, i + line<T>);
    if (i < n) elements(i, n);
}

template <class T>
struct ElementOf;
template <>
struct ElementOf<float> {
    static constexpr Element value = Element::float32;
};
template <>
struct ElementOf<double> {
    static constexpr Element value = Element::float64;
};

inline std::int64_t bytes_of(Element element) {
    return element == Element::float64 ? 8 : element == Element::float32 ? 4 : 2;
}

struct alignas(64) GatherBuffer {
    unsigned char bytes[tile * 8];
};

template <int bytes>
void gather(const Job& job, std::int64_t begin, std::int64_t n, unsigned char* out) {
    std::int64_t index[most_dimensions];
    const auto* source = static_cast<const unsigned char*>(job.gradient);
    for (std::int64_t d = job.rank - 1, rest = begin; d >= 0; --d) {
        index[d] = rest % job.shape[d];
        rest /= job.shape[d];
        source += index[d] * job.strides[d];
    }
    for (std::int64_t i = 0; i < n; ++i) {
        __builtin_memcpy(out + i * bytes, source, bytes);
        for (std::int64_t d = job.rank - 1; d >= 0; --d) {
            source += job.strides[d];
            if (++index[d] < job.shape[d]) {
                break;
            }
            source -= index[d] * job.strides[d];
            index[d] = 0;
        }
    }
}

FUSEDOPT_NOINLINE void gather(const Job& job, std::int64_t begin, std::int64_t n, unsigned char* out) {
    const std::int64_t bytes = bytes_of(job.gradient_element);
    if (bytes == 2) {
        gather<2>(job, begin, n, out);
    } else if (bytes == 4) {
        gather<4>(job, begin, n, out);
    } else {
        gather<8>(job, begin, n, out);
    }
}

/// The gradient's elements [begin, begin + n) one after another, in their own type.
FUSEDOPT_INLINE const void* contiguous(const Job& job, std::int64_t begin, std::int64_t n, GatherBuffer& buffer) {
    if (job.strides) {
        gather(job, begin, n, buffer.bytes);
        return buffer.bytes;
    }
    return static_cast<const unsigned char*>(job.gradient) + begin * bytes_of(job.gradient_element);
}

template <class T, class G>
void scale_in_double(const G* g, std::int64_t n, double factor, T* out) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        out[i] = static_cast<T>(static_cast<double>(g[i]) * factor);
    }
}

/// Finds or makes a tile of the gradient in T and returns the factor that is still to be applied to it.
/// A factor outside T's normal range, or a gradient wider than T, is multiplied in double, before rounding to T.
template <class T>
T load(const Job& job, const void* source, std::int64_t n, double factor, const T*& g, T* buffer) {
    const Element element = job.gradient_element;
    const bool wide = !is_representable<T>(factor);
    g = buffer;
    if (element == Element::float64) {
        const auto* in = static_cast<const double*>(source);
        if constexpr (sizeof(T) == 8) {
            g = in;
        } else {
            scale_in_double(in, n, factor, buffer);
            return T(1);
        }
    } else if (element == Element::float32) {
        const auto* in = static_cast<const float*>(source);
        if (wide) {
            scale_in_double(in, n, factor, buffer);
            return T(1);
        }
        if constexpr (sizeof(T) == 4) {
            g = in;
        } else {
            cast(in, n, buffer);
        }
    } else {
        if constexpr (sizeof(T) == 4) {
            widen(element, source, n, buffer);
            if (wide) {
                scale_in_double(buffer, n, factor, buffer);
                return T(1);
            }
        } else {
            alignas(64) float narrow_buffer[tile];
            widen(element, source, n, narrow_buffer);
            cast(narrow_buffer, n, buffer);
        }
    }
    return static_cast<T>(factor);
}

/// The factor on what reaches the rule.
inline double scale_of(const Step& step, const Job& job) {
    return step.scale * job.clip_factor;
}

/// buffer <- accumulator + unscale g, as the update step of a gradient accumulation sees it.
template <class T>
void add_accumulated(double unscale, const Job& job, const void* source, std::int64_t begin, std::int64_t n,
                     T* buffer) {
    const T* g;
    const T factor = load(job, source, n, unscale, g, buffer);
    const T* accumulator = static_cast<const T*>(job.accumulator) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        buffer[i] = accumulator[i] + g[i] * factor;
    }
}

/// Finds or makes a tile of the gradient, the average of an accumulation's last step, and returns the factor that is
/// still to be applied to it.
template <class T>
T load_averaged(const Step& step, const Job& job, const void* source, std::int64_t begin, std::int64_t n, const T*& g,
                T* buffer) {
    const double scale = scale_of(step, job);
    if (!job.accumulator) {
        return load(job, source, n, scale, g, buffer);
    }
    g = buffer;
    add_accumulated(step.unscale, job, source, begin, n, buffer);
    if (is_representable<T>(scale)) {
        return static_cast<T>(scale);
    }
    scale_in_double(buffer, n, scale, buffer);
    return T(1);
}

FUSEDOPT_INLINE bool clips_values(const Step& step) {
    return step.clipvalue <= Limits<double>::largest;
}

/// A tile of the gradient as the rule takes it, but for the factor it returns. Values are clipped here: in the rule's
/// own loop, with infinity for "off", clipping would cost every other step up to an eighth while arrays lie in a cache.
template <class T>
T prepare(const Step& step, const Job& job, const void* source, std::int64_t begin, std::int64_t n, const T*& g,
          T* buffer) {
    const T scale = load_averaged(step, job, source, begin, n, g, buffer);
    if (!clips_values(step)) {
        return scale;
    }
    const T clip = static_cast<T>(step.clipvalue);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        buffer[i] = larger(-clip, smaller(clip, g[i] * scale));
    }
    g = buffer;
    return T(1);
}

template <class T>
void empty_accumulator(const Job& job, std::int64_t begin, std::int64_t n) {
    if (job.accumulator) {
        __builtin_memset(static_cast<T*>(job.accumulator) + begin, 0, static_cast<unsigned long>(n) * sizeof(T));
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
