// What a step does to a tile's variable besides the rule: its average, and its form of 16 bits.
#pragma once

#include "kernel/gradient.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// average <- momentum average + (1 - momentum) w
template <class T>
struct Averaging {
    T* average;  // null: none
    T momentum = 0, one_minus_momentum = 0;

    Averaging(const Step& step, const Job& job) : average(static_cast<T*>(job.average)) {
        if (average) {
            momentum = static_cast<T>(step.ema_momentum);
            one_minus_momentum = static_cast<T>(1.0 - step.ema_momentum);
        }
    }

    FUSEDOPT_INLINE T operator()(T a, T w) const { return momentum * a + one_minus_momentum * w; }
};

template <class T>
FUSEDOPT_NOINLINE void average_elements(Averaging<T> averaging, std::int64_t n, T* __restrict average,
                                        const T* __restrict w) {
    for_each_line<T>(
        n, [&](std::int64_t first, std::int64_t last) __attribute__((always_inline)) {
            prefetch(average + first);
#pragma omp simd
            for (std::int64_t i = first; i < last; ++i) {
                average[i] = averaging(average[i], w[i]);
            }
        });
}

/// What the user wrote into a 16-bit variable since the last step wins over its master copy.
FUSEDOPT_NOINLINE void reconcile(const Job& job, std::int64_t begin, std::int64_t n) {
    alignas(64) std::uint16_t expected[tile];
    alignas(64) float stored[tile];
    auto* master = static_cast<float*>(job.weight) + begin;
    const auto* storage = static_cast<const std::uint16_t*>(job.storage) + begin;
    narrow(job.storage_element, master, n, expected);
    widen(job.storage_element, storage, n, stored);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        master[i] = expected[i] == storage[i] ? master[i] : stored[i];
    }
}

/// What is left to do when a tile's average is up to date: the variable takes it, and a 16-bit one is stored.
template <class T>
void store_tile(const Step& step, const Job& job, std::int64_t begin, std::int64_t n) {
    T* w = static_cast<T*>(job.weight) + begin;
    if (job.average && (step.overwrite || job.work == Work::restore)) {
        __builtin_memcpy(w, static_cast<const T*>(job.average) + begin, static_cast<unsigned long>(n) * sizeof(T));
    }
    if constexpr (sizeof(T) == 4) {
        if (job.storage) {
            narrow(job.storage_element, w, n, static_cast<std::uint16_t*>(job.storage) + begin);
        }
    }
}

/// All that follows the update of a tile.
template <class T>
void finish_tile(const Step& step, const Job& job, std::int64_t begin, std::int64_t n) {
    if (job.average && job.work != Work::restore) {
        const Averaging<T> averaging(step, job);
        average_elements(averaging, n, averaging.average + begin, static_cast<const T*>(job.weight) + begin);
    }
    store_tile<T>(step, job, begin, n);
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
