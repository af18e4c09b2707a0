// The sweep over one variable, tile by tile: prepare the gradient, update, finish. The rule is its parameter.
#pragma once

#include "kernel/finish.hpp"
#include "kernel/gradient.hpp"
#include "kernel/measure.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

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

/// Elements whose gradients are widened at a time, and by which the average follows the update: what waits for a
/// division, or is waited for by one, keeps a processor from looking far enough ahead when it comes right beside it.
template <class T>
inline constexpr std::int64_t batch = 8 * line<T>;

/// A tile's gradient: `wide` in the compute type or, where that is null, 16-bit numbers that are widened on the way.
template <class T>
struct TileGradient {
    const T* wide;
    const std::uint16_t* narrow;
    Element element;

    FUSEDOPT_INLINE const T* widen_batch(std::int64_t i, std::int64_t n, T* buffer) const {
        if constexpr (sizeof(T) == 4) {
            widen(element, narrow + i, n < batch<T> ? n : batch<T>, buffer);
        }
        return buffer;
    }
    FUSEDOPT_INLINE void prefetch_at(std::int64_t i) const {
        if (wide) {
            prefetch(wide + i);
        } else {
            prefetch(narrow + i);
        }
    }
};

/// One tile, a cache line of every array at a time: each is prefetched once, and memory and arithmetic work side by
/// side. The rule comes by value: a reference could alias the arrays, and its scalars would be loaded again and again.
template <class Rule, class T>
void update_tile(Rule rule, T scale, T clip, T keep, Averaging<T> averaging, std::int64_t begin, std::int64_t n, T* w,
                 TileGradient<T> gradient, T* a, T* b, T* c) {
    alignas(64) T widened[batch<T>];
    const T* g = gradient.wide;
    std::int64_t i = 0, averaged = 0;
    for (; i + line<T> <= n; i += line<T>, g += line<T>) {
        if (!gradient.wide && i % batch<T> == 0) g = gradient.widen_batch(i, n - i, widened);
        prefetch(w + i);
        gradient.prefetch_at(i);
        if constexpr (Rule::slot_count > 0) prefetch(a + i);
        if constexpr (Rule::slot_count > 1) prefetch(b + i);
        if constexpr (Rule::slot_count > 2) prefetch(c + i);
        if (averaging.average) {
            prefetch(averaging.average + begin + i);
            if (i >= batch<T>) {
                averaging.move(begin + averaged, line<T>, w + averaged);
                averaged += line<T>;
            }
        }
        update_elements(rule, scale, clip, keep, line<T>, w + i, g, a + i, b + i, c + i);
    }
    if (!gradient.wide && i % batch<T> == 0) g = gradient.widen_batch(i, n - i, widened);
    update_elements(rule, scale, clip, keep, n - i, w + i, g, a + i, b + i, c + i);
    if (averaging.average) averaging.move(begin + averaged, n - averaged, w + averaged);
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

/// The first half of a rule with a trust ratio: its slots, and the tile's share of the two norms.
template <class Rule, class T>
TrustPartial advance_tile(Rule rule, T scale, T clip, T keep, std::int64_t n, const T* w, const T* g, T* m, T* v) {
    alignas(64) T decayed[tile];
    alignas(64) T direction[tile];
    Lanes weights, directions;
    std::int64_t i = 0, measured = 0;
    const auto measure_until = [&](std::int64_t end) __attribute__((always_inline)) {
        Lanes x = weights, y = directions, unused;  // in registers
        for (; measured < end; measured += lanes) {
            add_row(decayed + measured, x, unused);
            add_row(direction + measured, y, unused);
        }
        weights = x;
        directions = y;
    };
    for (; i + lanes <= n; i += lanes) {
        for (std::int64_t k = i; k < i + lanes; k += line<T>) {
            prefetch(w + k);
            prefetch(g + k);
            prefetch(m + k);
            prefetch(v + k);
        }
        advance_elements(rule, scale, clip, keep, lanes, w + i, g + i, m + i, v + i, decayed + i, direction + i);
        if (i % (tile / 4) == 0) measure_until(i);
    }
    if (i < n) {
        advance_elements(rule, scale, clip, keep, n - i, w + i, g + i, m + i, v + i, decayed + i, direction + i);
        for (std::int64_t k = n; k < i + lanes; ++k) decayed[k] = direction[k] = 0;
    }
    measure_until(n);
    return {weights.sum(), directions.sum()};
}

/// The second half of a rule with a trust ratio: the variable, along the direction its slots give.
template <class Rule, class T>
void settle_tile(Rule rule, T ratio, T keep, std::int64_t n, T* w, const T* m, const T* v) {
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

/// Finds or makes a tile of the gradient and returns the factor that is still to be applied to it.
template <class T>
FUSEDOPT_INLINE T prepare_tile(const Job& job, const void* source, std::int64_t begin, std::int64_t n,
                               TileGradient<T>& gradient, T* buffer) {
    if (!job.accumulator && is_representable<T>(job.scale)) {
        if (job.gradient_element == ElementOf<T>::value) {
            gradient = {static_cast<const T*>(source), nullptr, job.gradient_element};
            return static_cast<T>(job.scale);
        }
        if (sizeof(T) == 4 && bytes_of(job.gradient_element) == 2) {
            gradient = {nullptr, static_cast<const std::uint16_t*>(source), job.gradient_element};
            return static_cast<T>(job.scale);
        }
    }
    const T scale = load_averaged(job, source, begin, n, gradient.wide, buffer);
    empty_accumulator<T>(job, begin, n);
    return scale;
}

template <template <class> class Rule, class T>
void update(const Step& step, const Stretch& stretch) {
    const Rule<T> rule(step.scalars);
    const T clip = static_cast<T>(step.clipvalue);
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const T keep = keep_of<T>(step, *job);
        T* w = static_cast<T*>(job->weight);
        T* a = static_cast<T*>(job->slots[0]);
        T* b = static_cast<T*>(job->slots[1]);
        T* c = static_cast<T*>(job->slots[2]);
        const Averaging<T> averaging(step, *job);
        const std::int64_t end = end_in(stretch, job);
        for (std::int64_t i = begin_in(stretch, job); i < end; i += tile) {
            const std::int64_t n = end - i < tile ? end - i : tile;
            if constexpr (Rule<T>::has_trust_ratio) {
                settle_tile(rule, static_cast<T>(job->ratio), keep, n, w + i, a + i, b + i);
                finish_tile<T>(step, *job, i, n);
            } else {
                TileGradient<T> gradient{};
                const T scale = prepare_tile(*job, contiguous(*job, i, n, gathered), i, n, gradient, buffer);
                if (job->storage) {
                    reconcile(*job, i, n);
                }
                update_tile(rule, scale, clip, keep, averaging, i, n, w + i, gradient, a + i, b + i, c + i);
                if (job->average || job->storage) {
                    store_tile<T>(step, *job, i, n);
                }
            }
        }
    }
}

template <template <class> class Rule, class T>
void advance(const Step& step, const Stretch& stretch, TrustPartial* partials) {
    const Rule<T> rule(step.scalars);
    const T clip = static_cast<T>(step.clipvalue);
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const T keep = keep_of<T>(step, *job);
        const T* w = static_cast<const T*>(job->weight);
        T* m = static_cast<T*>(job->slots[0]);
        T* v = static_cast<T*>(job->slots[1]);
        const std::int64_t end = end_in(stretch, job);
        for (std::int64_t i = begin_in(stretch, job); i < end; i += tile) {
            const std::int64_t n = end - i < tile ? end - i : tile;
            const T* g;
            const T scale = load_averaged(*job, contiguous(*job, i, n, gathered), i, n, g, buffer);
            empty_accumulator<T>(*job, i, n);
            if (job->storage) {
                reconcile(*job, i, n);
            }
            partials[job->first_partial + static_cast<std::size_t>(i / tile)] =
                advance_tile(rule, scale, clip, keep, n, w + i, g, m + i, v + i);
        }
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
void hold(const Step& step, const Stretch& stretch) {
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const std::int64_t end = end_in(stretch, job);
        for (std::int64_t i = begin_in(stretch, job); i < end; i += tile) {
            const std::int64_t n = end - i < tile ? end - i : tile;
            T* accumulator = static_cast<T*>(job->accumulator) + i;
            if (job->work == Work::accumulate) {
                add_accumulated(*job, contiguous(*job, i, n, gathered), i, n, buffer);
                __builtin_memcpy(accumulator, buffer, static_cast<unsigned long>(n) * sizeof(T));
            } else if (job->work == Work::discard) {
                __builtin_memset(accumulator, 0, static_cast<unsigned long>(n) * sizeof(T));
            }
            if (job->average) {
                if (job->storage) {
                    reconcile(*job, i, n);
                }
                finish_tile<T>(step, *job, i, n);
            }
        }
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
