// What a step does to a tile's variable besides the rule: its average, and its form of 16 bits.
#pragma once

#include "kernel/gradient.hpp"
#include "kernel/random_rounding.hpp"

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

/// A piece of a variable in the compute type: in its own memory, or widened into `buffer`, and then a tile at most.
/// An earlier sweep of the same step has opened it before.
template <class T>
T* open_again(const Job& job, std::int64_t begin, std::int64_t n, T* buffer) {
    if constexpr (sizeof(T) == 4) {
        if (!job.weight) {
            widen(job.storage_element, static_cast<const std::uint16_t*>(job.storage) + begin, n, buffer);
            return buffer;
        }
    }
    return static_cast<T*>(job.weight) + begin;
}

/// The same in a step's first sweep.
template <class T>
T* open_piece(const Job& job, std::int64_t begin, std::int64_t n, T* buffer) {
    if constexpr (sizeof(T) == 4) {
        if (job.weight && job.storage) {
            reconcile(job, begin, n);
        }
    }
    return open_again(job, begin, n, buffer);
}

/// What is left to do when a tile's average is up to date: the variable takes it, and a 16-bit one is stored. If a step
/// rounds a variable twice, it does so from two streams.
template <class T>
void store_tile(const Step& step, const Job& job, std::int64_t begin, std::int64_t n, T* w, int stream = 0) {
    if (job.average && (step.overwrite || job.work == Work::restore)) {
        __builtin_memcpy(w, static_cast<const T*>(job.average) + begin, static_cast<unsigned long>(n) * sizeof(T));
    }
    if constexpr (sizeof(T) == 4) {
        if (!job.storage) return;
        auto* storage = static_cast<std::uint16_t*>(job.storage) + begin;
        if (job.weight) {
            return narrow(job.storage_element, w, n, storage);
        }
        // A piece may go over a border of tiles, which is one of random bits.
        for (std::int64_t i = 0, count; i < n; i += count) {
            const std::int64_t rest = tile - (begin + i) % tile;
            count = n - i < rest ? n - i : rest;
            const RandomSource random(step.seed, job.first_partial, begin + i);
            narrow_at_random(job.storage_element, w + i, count, random.stream(stream), storage + i);
        }
    }
}

/// All that follows the update of a tile.
template <class T>
void finish_tile(const Step& step, const Job& job, std::int64_t begin, std::int64_t n, T* w) {
    if (job.average && job.work != Work::restore) {
        const Averaging<T> averaging(step, job);
        average_elements(averaging, n, averaging.average + begin, w);
    }
    store_tile(step, job, begin, n, w);
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
