// Rules with a trust ratio take two sweeps: the first one advances their slots and measures, the second one settles the
// variable.
#pragma once

#include "kernel/finish.hpp"
#include "kernel/gradient.hpp"
#include "kernel/measure.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class Rule, class T>
FUSEDOPT_INLINE void advance_elements(const Rule& rule, T scale, T keep, std::int64_t n, const T* w, const T* g, T* m,
                                      T* v, T* decayed, T* direction) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        rule.advance(g[i] * scale, m[i], v[i]);
        decayed[i] = w[i] * keep;
        direction[i] = rule.direction(m[i], v[i]);
    }
}

/// The first half of a rule with a trust ratio: its slots, and the tile's share of the two norms.
template <class Rule, class T>
TrustPartial advance_tile(Rule rule, T scale, T keep, std::int64_t n, const T* w, const T* g, T* m, T* v) {
    alignas(64) T decayed[tile];
    alignas(64) T direction[tile];
    Lanes weights, directions;
    std::int64_t i = 0, measured = 0;
    // One array after the other: the sums of both would not stay in the registers of every level.
    const auto measure_until = [&](std::int64_t end) __attribute__((always_inline)) {
        add_rows(decayed + measured, end - measured, weights);
        add_rows(direction + measured, end - measured, directions);
        measured = end;
    };
    for (; i + lanes <= n; i += lanes) {
        for (std::int64_t k = i; k < i + lanes; k += line<T>) {
            prefetch(w + k);
            prefetch(g + k);
            prefetch(m + k);
            prefetch(v + k);
        }
        advance_elements(rule, scale, keep, lanes, w + i, g + i, m + i, v + i, decayed + i, direction + i);
        if (i % (tile / 8) == 0) measure_until(i);
    }
    if (i < n) {
        advance_elements(rule, scale, keep, n - i, w + i, g + i, m + i, v + i, decayed + i, direction + i);
        for (std::int64_t k = n; k < i + lanes; ++k) decayed[k] = direction[k] = 0;
        i += lanes;
    }
    measure_until(i);
    return {weights.sum(), directions.sum()};
}

/// The second half of a rule with a trust ratio: the variable, along the direction its slots give.
template <class Rule, class T>
void settle_tile(Rule rule, T ratio, T keep, std::int64_t n, T* w, const T* m, const T* v) {
    const T step = ratio * rule.lr;
    for_each_line<T>(
        n, [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
            prefetch(w + begin);
            prefetch(m + begin);
            prefetch(v + begin);
#pragma omp simd
            for (std::int64_t i = begin; i < end; ++i) {
                w[i] = w[i] * keep - step * rule.direction(m[i], v[i]);
            }
        });
}

template <template <class> class Rule, class T>
void advance(const Step& step, const Stretch& stretch, TrustPartial* partials) {
    const Rule<T> rule(step.scalars);
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
            const T scale = prepare(step, *job, contiguous(*job, i, n, gathered), i, n, g, buffer);
            empty_accumulator<T>(*job, i, n);
            if (job->storage) {
                reconcile(*job, i, n);
            }
            partials[job->first_partial + static_cast<std::size_t>(i / tile)] =
                advance_tile(rule, scale, keep, n, w + i, g, m + i, v + i);
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

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
