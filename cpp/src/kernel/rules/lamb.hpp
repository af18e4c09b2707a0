// LAMB (You et al. 2020).  m, v as Adam's;  u = (a m) / (sqrt(c v) + epsilon)
// w <- w - r lr u,  r = |w| / |u| over the whole variable where both norms are positive, else 1
// with a = 1 / (1 - beta_1^t),  c = 1 / (1 - beta_2^t). The norms split the rule: a first sweep moves m and v and sums
// squares, a second one moves w; job.ratio brings r. As in Keras, weight decay is decoupled and comes before |w| is
// taken; in the paper it is part of u. Codes of m and v would give another u. So of coded slots the first sweep stores
// nothing, and the second one moves them again and stores them after w.
#pragma once

#include "kernel/border/lamb.hpp"
#include "kernel/finish.hpp"
#include "kernel/gradient.hpp"
#include "kernel/measure.hpp"
#include "kernel/slot_codes.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Lamb {
    LambScalars<T> s;

    FUSEDOPT_INLINE void advance(T g, T& m, T& v) const {
        m = m + (g - m) * s.one_minus_beta_1;
        v = v + (g * g - v) * s.one_minus_beta_2;
    }

    FUSEDOPT_INLINE T direction(T m, T v) const { return (s.a * m) / (square_root(s.c * v) + s.epsilon); }
};

template <class T>
FUSEDOPT_INLINE void lamb_advance_elements(const Lamb<T>& rule, T scale, T keep, std::int64_t n, const T* w, const T* g,
                                           T* m, T* v, T* decayed, T* u) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        rule.advance(g[i] * scale, m[i], v[i]);
        decayed[i] = w[i] * keep;
        u[i] = rule.direction(m[i], v[i]);
    }
}

/// Moves m and v, and measures.
template <class T>
Squares lamb_advance_tile(Lamb<T> rule, T scale, T keep, std::int64_t n, const T* w, const T* g, T* m, T* v) {
    alignas(64) T decayed[tile];
    alignas(64) T u[tile];
    Lanes weights, updates;
    std::int64_t i = 0, measured = 0;
    // One array after the other: the sums of both would not stay in the registers of every level.
    const auto measure_until = [&](std::int64_t end) __attribute__((always_inline)) {
        add_rows(decayed + measured, end - measured, weights);
        add_rows(u + measured, end - measured, updates);
        measured = end;
    };
    for (; i + lanes <= n; i += lanes) {
        for (std::int64_t k = i; k < i + lanes; k += line<T>) {
            prefetch(w + k);
            prefetch(g + k);
            prefetch(m + k);
            prefetch(v + k);
        }
        lamb_advance_elements(rule, scale, keep, lanes, w + i, g + i, m + i, v + i, decayed + i, u + i);
        if (i % (tile / 8) == 0) measure_until(i);
    }
    if (i < n) {
        lamb_advance_elements(rule, scale, keep, n - i, w + i, g + i, m + i, v + i, decayed + i, u + i);
        for (std::int64_t k = n; k < i + lanes; ++k) decayed[k] = u[k] = 0;
        i += lanes;
    }
    measure_until(i);
    return {weights.sum(), updates.sum()};
}

template <class T>
void lamb_advance(const Step& step, const Stretch& stretch, Squares* squares) {
    const auto rule = with_scalars<Lamb<T>, T>(step.scalars);
    alignas(64) T buffer[tile], widened[tile], momentum[tile], velocity[tile];
    GatherBuffer gathered;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const T keep = keep_of<T>(step, *job);
        const std::int64_t end = end_in(stretch, job);
        for (std::int64_t i = begin_in(stretch, job); i < end; i += tile) {
            const std::int64_t n = end - i < tile ? end - i : tile;
            const T* g;
            const T scale = prepare(step, *job, contiguous(*job, i, n, gathered), i, n, g, buffer);
            if (!is_coded(*job)) empty_accumulator<T>(*job, i, n);
            const T* w = open_piece(*job, i, n, widened);
            T* m = open_numbers(step, *job, 0, i, n, momentum);
            T* v = open_numbers(step, *job, 1, i, n, velocity);
            squares[job->first_partial + static_cast<std::size_t>(i / tile)] =
                lamb_advance_tile(rule, scale, keep, n, w, g, m, v);
        }
    }
}

/// Moves m and v of coded slots as the first sweep did.
template <class T>
FUSEDOPT_NOINLINE void lamb_advance_again(Lamb<T> rule, const Step& step, const Job& job, std::int64_t begin,
                                          std::int64_t n, T* m, T* v) {
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    const T* g;
    const T scale = prepare(step, job, contiguous(job, begin, n, gathered), begin, n, g, buffer);
    empty_accumulator<T>(job, begin, n);
    for_each_line<T>(
        n, [&](std::int64_t first, std::int64_t last) __attribute__((always_inline)) {
            prefetch(g + first);
#pragma omp simd
            for (std::int64_t i = first; i < last; ++i) {
                rule.advance(g[i] * scale, m[i], v[i]);
            }
        });
}

template <class T>
void lamb_settle_tile(Lamb<T> rule, T a, T keep, std::int64_t n, T* w, const T* m, const T* v) {
    for_each_line<T>(
        n, [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
            prefetch(w + begin);
            prefetch(m + begin);
            prefetch(v + begin);
#pragma omp simd
            for (std::int64_t i = begin; i < end; ++i) {
                w[i] = w[i] * keep - a * rule.direction(m[i], v[i]);
            }
        });
}

template <class T>
void lamb_settle(const Step& step, const Stretch& stretch) {
    const auto rule = with_scalars<Lamb<T>, T>(step.scalars);
    alignas(64) T widened[tile], momentum[tile], velocity[tile];
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const T r = static_cast<T>(job->ratio);
        const T keep = keep_of<T>(step, *job);
        const std::int64_t end = end_in(stretch, job);
        for (std::int64_t i = begin_in(stretch, job); i < end; i += tile) {
            const std::int64_t n = end - i < tile ? end - i : tile;
            T* w = open_again(*job, i, n, widened);
            T* m = open_numbers(step, *job, 0, i, n, momentum);
            T* v = open_numbers(step, *job, 1, i, n, velocity);
            if (is_coded(*job)) lamb_advance_again(rule, step, *job, i, n, m, v);
            lamb_settle_tile(rule, r * rule.s.lr, keep, n, w, m, v);
            close_numbers<T>(step, *job, i, n, {m, v, nullptr});
            finish_tile(step, *job, i, n, w);
        }
    }
}

inline constexpr LambKernels lamb_kernels[] = {
    {lamb_advance<float>, lamb_settle<float>},
    {lamb_advance<double>, lamb_settle<double>},
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
