// The sweep over one variable, tile by tile: prepare the gradient, update, finish. The rule is its parameter.
#pragma once

#include "kernel/gradient.hpp"
#include "kernel/measure.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
inline constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));

template <class T>
FUSEDOPT_INLINE void prefetch(const T* address) {
    __builtin_prefetch(reinterpret_cast<const char*>(address) + prefetch_bytes);
}

/// The rule on elements [0, n), with every factor folded into scale and keep.
template <class Rule, class T>
FUSEDOPT_INLINE void update_elements(const Rule& rule, T scale, T clip, T keep, std::int64_t n, T* w, const T* g, T* a,
                                     T* b, T* c) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        const T x = larger(-clip, smaller(clip, g[i] * scale));
        T y = w[i] * keep;
        if constexpr (Rule::slot_count == 0) {
            rule(y, x);
        } else if constexpr (Rule::slot_count == 1) {
            rule(y, x, a[i]);
        } else if constexpr (Rule::slot_count == 2) {
            rule(y, x, a[i], b[i]);
        } else {
            rule(y, x, a[i], b[i], c[i]);
        }
        w[i] = y;
    }
}

/// Memory that the stages around the rule will read: this tile's average and the next tile's gradient. The rule's loop
/// fetches it along the way, or the memory would stand idle while the rule computes and the core while a stage loads.
struct Upcoming {
    const char* average = nullptr;
    const char* gradient = nullptr;
    std::int64_t gradient_bytes = 0;  // for each line of the rule's loop

    FUSEDOPT_INLINE void fetch(std::int64_t index) const {
        if (average) __builtin_prefetch(average + 64 * index);
        if (gradient) __builtin_prefetch(gradient + gradient_bytes * index);
    }
};

/// One tile of the rule, a cache line of every array at a time so that each line is prefetched once.
template <class Rule, class T>
void update_tile(const Rule& rule, T scale, T clip, T keep, std::int64_t n, T* w, const T* g, T* a, T* b, T* c,
                 const Upcoming& upcoming) {
    std::int64_t i = 0;
    for (; i + line<T> <= n; i += line<T>) {
        upcoming.fetch(i / line<T>);
        prefetch(w + i);
        prefetch(g + i);
        if constexpr (Rule::slot_count > 0) prefetch(a + i);
        if constexpr (Rule::slot_count > 1) prefetch(b + i);
        if constexpr (Rule::slot_count > 2) prefetch(c + i);
        update_elements(rule, scale, clip, keep, line<T>, w + i, g + i, a + i, b + i, c + i);
    }
    update_elements(rule, scale, clip, keep, n - i, w + i, g + i, a + i, b + i, c + i);
}

template <class Rule, class T>
FUSEDOPT_INLINE void advance_elements(const Rule& rule, T scale, T clip, T keep, std::int64_t n, const T* w, const T* g,
                                      T* m, T* v, T* decayed, T* direction) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        rule.advance(larger(-clip, smaller(clip, g[i] * scale)), m[i], v[i]);
        decayed[i] = w[i] * keep;
        direction[i] = rule.direction(m[i], v[i]);
    }
}

/// The second half of a rule with a trust ratio: the variable, along the direction its slots give.
template <class Rule, class T>
void settle_tile(const Rule& rule, T ratio, T keep, std::int64_t n, T* w, const T* m, const T* v) {
    const T step = ratio * rule.lr;
    const auto elements = [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) {
            w[i] = w[i] * keep - step * rule.direction(m[i], v[i]);
        }
    };
    std::int64_t i = 0;
    for (; i + line<T> <= n; i += line<T>) {
        prefetch(w + i);
        prefetch(m + i);
        prefetch(v + i);
        elements(i, i + line<T>);
    }
    elements(i, n);
}

/// What the user wrote into a 16-bit variable since the last step wins over its master copy.
inline void reconcile(const Job& job, std::int64_t begin, std::int64_t n) {
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

template <class T>
void finish_tile(const Step& step, const Job& job, std::int64_t begin, std::int64_t n) {
    T* w = static_cast<T*>(job.weight) + begin;
    if (job.average) {
        T* average = static_cast<T*>(job.average) + begin;
        const T momentum = static_cast<T>(step.ema_momentum);
        const T one_minus_momentum = static_cast<T>(1.0 - step.ema_momentum);
        if (job.work == Work::restore) {
            __builtin_memcpy(w, average, static_cast<unsigned long>(n) * sizeof(T));
        } else {
            std::int64_t i = 0;
            for (; i + line<T> <= n; i += line<T>) {
                prefetch(average + i);
#pragma omp simd
                for (std::int64_t j = i; j < i + line<T>; ++j) {
                    average[j] = momentum * average[j] + one_minus_momentum * w[j];
                }
            }
#pragma omp simd
            for (std::int64_t j = i; j < n; ++j) {
                average[j] = momentum * average[j] + one_minus_momentum * w[j];
            }
            if (step.overwrite) {
                __builtin_memcpy(w, average, static_cast<unsigned long>(n) * sizeof(T));
            }
        }
    }
    if constexpr (sizeof(T) == 4) {
        if (job.storage) {
            narrow(job.storage_element, w, n, static_cast<std::uint16_t*>(job.storage) + begin);
        }
    }
}

template <template <class> class Rule, class T>
void update(const Step& step, const Job& job, std::int64_t begin, std::int64_t end) {
    const Rule<T> rule(step.scalars);
    const T clip = static_cast<T>(step.clipvalue);
    const T keep = static_cast<T>(job.keep);
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    T* w = static_cast<T*>(job.weight);
    T* a = static_cast<T*>(job.slots[0]);
    T* b = static_cast<T*>(job.slots[1]);
    T* c = static_cast<T*>(job.slots[2]);
    Upcoming upcoming;
    upcoming.gradient_bytes = line<T> * bytes_of(job.gradient_element);
    for (std::int64_t i = begin; i < end; i += tile) {
        const std::int64_t n = end - i < tile ? end - i : tile;
        if constexpr (Rule<T>::has_trust_ratio) {
            settle_tile(rule, static_cast<T>(job.ratio), keep, n, w + i, a + i, b + i);
        } else {
            const void* source = contiguous(job, i, n, gathered);
            const T* g;
            const T scale = load_averaged(job, source, i, n, g, buffer);
            empty_accumulator<T>(job, i, n);
            if (job.storage) {
                reconcile(job, i, n);
            }
            if (job.average) {
                upcoming.average = static_cast<const char*>(job.average) + i * static_cast<std::int64_t>(sizeof(T));
            }
            if (g == buffer && !job.strides) {
                upcoming.gradient = static_cast<const char*>(source) + tile * bytes_of(job.gradient_element);
            }
            update_tile(rule, scale, clip, keep, n, w + i, g, a + i, b + i, c + i, upcoming);
        }
        finish_tile<T>(step, job, i, n);
    }
}

/// The first half of a rule with a trust ratio: its slots, and each tile's share of the two norms.
template <template <class> class Rule, class T>
void advance(const Step& step, const Job& job, std::int64_t begin, std::int64_t end, TrustPartial* partials) {
    const Rule<T> rule(step.scalars);
    const T clip = static_cast<T>(step.clipvalue);
    const T keep = static_cast<T>(job.keep);
    alignas(64) T buffer[tile];
    alignas(64) T decayed[tile];
    alignas(64) T direction[tile];
    GatherBuffer gathered;
    const T* w = static_cast<const T*>(job.weight);
    T* m = static_cast<T*>(job.slots[0]);
    T* v = static_cast<T*>(job.slots[1]);
    for (std::int64_t i = begin; i < end; i += tile) {
        const std::int64_t n = end - i < tile ? end - i : tile;
        const T* g;
        const T scale = load_averaged(job, contiguous(job, i, n, gathered), i, n, g, buffer);
        empty_accumulator<T>(job, i, n);
        if (job.storage) {
            reconcile(job, i, n);
        }
        std::int64_t j = 0;
        for (; j + line<T> <= n; j += line<T>) {
            prefetch(w + i + j);
            prefetch(g + j);
            prefetch(m + i + j);
            prefetch(v + i + j);
            advance_elements(rule, scale, clip, keep, line<T>, w + i + j, g + j, m + i + j, v + i + j, decayed + j,
                             direction + j);
        }
        advance_elements(rule, scale, clip, keep, n - j, w + i + j, g + j, m + i + j, v + i + j, decayed + j,
                         direction + j);
        partials[i / tile] = {measure_elements(decayed, n).sum_of_squares,
                              measure_elements(direction, n).sum_of_squares};
    }
}

template <template <class> class Rule, class T>
constexpr AdvanceFunction advance_function() {
    if constexpr (Rule<T>::has_trust_ratio) {
        return advance<Rule, T>;
    } else {
        return nullptr;
    }
}

/// Everything a step does to a variable that the rule does not touch in it.
template <class T>
void hold(const Step& step, const Job& job, std::int64_t begin, std::int64_t end) {
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    for (std::int64_t i = begin; i < end; i += tile) {
        const std::int64_t n = end - i < tile ? end - i : tile;
        T* accumulator = static_cast<T*>(job.accumulator) + i;
        if (job.work == Work::accumulate) {
            add_accumulated(job, contiguous(job, i, n, gathered), i, n, buffer);
            __builtin_memcpy(accumulator, buffer, static_cast<unsigned long>(n) * sizeof(T));
        } else if (job.work == Work::discard) {
            __builtin_memset(accumulator, 0, static_cast<unsigned long>(n) * sizeof(T));
        }
        if (job.average) {
            if (job.storage) {
                reconcile(job, i, n);
            }
            finish_tile<T>(step, job, i, n);
        }
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
