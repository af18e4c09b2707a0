// Sums of the gradients that several ranks have for the same elements. The caller says in which order, and sets the
// floating-point state.
#pragma once

#include "kernel/convert.hpp"
#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
FUSEDOPT_INLINE void add(const T* values, std::int64_t n, bool is_first, T* sum) {
    if (is_first) {
        __builtin_memcpy(sum, values, static_cast<std::size_t>(n) * sizeof(T));
        return;
    }
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) sum[i] += values[i];
}

inline void add(const void* values, Element element, std::int64_t n, bool is_first, void* sum) {
    if (element == Element::float64) {
        add(static_cast<const double*>(values), n, is_first, static_cast<double*>(sum));
    } else if (element == Element::float32) {
        add(static_cast<const float*>(values), n, is_first, static_cast<float*>(sum));
    } else {
        float wide[tile];
        for (std::int64_t i = 0, next; i < n; i = next) {
            next = i + tile < n ? i + tile : n;
            widen(element, static_cast<const std::uint16_t*>(values) + i, next - i, wide);
            add(wide, next - i, is_first, static_cast<float*>(sum) + i);
        }
    }
}

template <class T>
FUSEDOPT_INLINE void divide(T* sum, std::int64_t n, T count) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) sum[i] /= count;
}

inline void divide(void* sum, Element element, std::int64_t n, double count) {
    if (element == Element::float64) {
        divide(static_cast<double*>(sum), n, count);
    } else {
        divide(static_cast<float*>(sum), n, static_cast<float>(count));
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
