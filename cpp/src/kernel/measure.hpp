// The reading sweep: a tile's sum of squares and its overflow check, in fixed lanes so that every level sums alike.
#pragma once

#include "kernel/gradient.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

inline constexpr int lanes = 32;  // so many that no addition waits for the one before

struct Partial {
    double sum_of_squares;
    double poison;  // 0, or NaN if an element is not finite
};

template <int count>
struct Sums {
    static constexpr int groups = count / doubles;
    Doubles group[groups] = {};

    // Halves are added, then quarters, and so on.
    FUSEDOPT_INLINE double sum() const {
        Sums x = *this;
#pragma GCC unroll 4
        for (int half = groups / 2; half > 0; half /= 2) {
#pragma GCC unroll 4
            for (int k = 0; k < half; ++k) x.group[k] += x.group[k + half];
        }
#pragma GCC unroll 4
        for (int half = doubles / 2; half > 0; half /= 2) {
#pragma GCC unroll 4
            for (int k = 0; k < half; ++k) x.group[0][k] += x.group[0][k + half];
        }
        return x.group[0][0];
    }
};

using Lanes = Sums<lanes>;

FUSEDOPT_INLINE void add_row(const double* g, Lanes& squares, Lanes& poison) {
#pragma GCC unroll 8
    for (int k = 0; k < Lanes::groups; ++k) {
        const Doubles x = to_double(g + doubles * k);
        squares.group[k] += x * x;
        poison.group[k] += x * 0.0;
    }
}

// Squares of finite floats stay finite in double, so they need no poison of their own.
FUSEDOPT_INLINE void add_row(const float* g, Lanes& squares, Lanes&) {
#pragma GCC unroll 8
    for (int k = 0; k < Lanes::groups; ++k) {
        squares.group[k] = add_exact_square(squares.group[k], to_double(g + doubles * k));
    }
}

FUSEDOPT_INLINE void add_row(const std::uint16_t* g, Lanes& squares, Lanes& poison) {
    alignas(64) float row[lanes];
#if defined(__F16C__)
#pragma GCC unroll 4
    for (int i = 0; i < lanes; i += 2 * doubles) {
        const auto x = widen_register(g + i);
        __builtin_memcpy(row + i, &x, sizeof(x));
    }
#else
    for (int i = 0; i < lanes; ++i) row[i] = widen_float16(g[i]);
#endif
    add_row(row, squares, poison);
}

FUSEDOPT_INLINE void add_row(const Bfloat16* g, Lanes& squares, Lanes& poison) {
    alignas(64) float row[lanes];
    for (int i = 0; i < lanes; ++i) row[i] = widen_bfloat16(g[i].bits);
    add_row(row, squares, poison);
}

template <class G>
FUSEDOPT_INLINE void prefetch_row(const G* row) {
#pragma GCC unroll 4
    for (int k = 0; k < lanes; k += 64 / static_cast<int>(sizeof(G))) prefetch_far(row + k);
}

/// The first n numbers of a row, then zeros.
template <class G>
FUSEDOPT_INLINE void copy_part(const G* in, std::int64_t n, G* row) {
    if constexpr (reads_by_mask<G>) {
#pragma omp simd
        for (int k = 0; k < lanes; ++k) row[k] = k < n ? in[k] : G{};
    } else {
        __builtin_memset(row, 0, lanes * sizeof(G));
        __builtin_memcpy(row, in, static_cast<unsigned long>(n) * sizeof(G));
    }
}

/// Calls add(row) for each row of as many elements as lanes; a last, short row is filled with zeros.
template <class G, class Add>
FUSEDOPT_INLINE void for_each_row(const G* g, std::int64_t n, const Add& add) {
    std::int64_t i = 0;
    for (; i + lanes <= n; i += lanes) {
        prefetch_row(g + i);
        add(g + i);
    }
    if (i < n) {
        alignas(64) G row[lanes];
        copy_part(g + i, n - i, row);
        add(row);
    }
}

/// Adds the squares of n numbers, which are whole rows.
template <class G>
FUSEDOPT_INLINE void add_rows(const G* g, std::int64_t n, Lanes& squares) {
    Lanes sums = squares, unused;  // in registers
    for (std::int64_t i = 0; i < n; i += lanes) add_row(g + i, sums, unused);
    squares = sums;
}

/// Element i goes to lane i mod 32.
template <class G>
Partial measure_elements(const G* g, std::int64_t n) {
    Lanes squares, poison;
    for_each_row(g, n, [&](const G* row) __attribute__((always_inline)) { add_row(row, squares, poison); });
    const double sum = squares.sum();
    return {sum, sizeof(G) == 8 ? poison.sum() : sum * 0.0};
}

// The same sums in the same lanes, faster, unless there is an infinity or NaN, or a number near them.

inline Partial measure_fast(const std::uint16_t* g, std::int64_t n) {
#if defined(__F16C__)
    using Half = Sums<lanes / 2>;
    Half even, odd;
    for_each_row(
        g, n, [&](const std::uint16_t* row) __attribute__((always_inline)) {
#pragma GCC unroll 4
            for (int k = 0; k < Half::groups; ++k) add_squares(row + 2 * doubles * k, even.group[k], odd.group[k]);
        });
    const double sum = (even.sum() + odd.sum()) * bias_factor;
    if (sum < 0x1p128) return {sum, 0.0};
#endif
    return measure_elements(g, n);
}

inline Partial measure_fast(const Bfloat16* g, std::int64_t n) {
    Lanes sums;
    constexpr int half = Lanes::groups / 2;
    for_each_row(
        g, n, [&](const Bfloat16* row) __attribute__((always_inline)) {
            add_squares(row, sums.group);
            add_squares(row + lanes / 2, sums.group + half);
        });
    for (int k = 0; k < half; ++k) sums.group[k] += sums.group[k + half];
    double of_rest[4][4];  // number i mod 4, then i / 4
    __builtin_memcpy(of_rest, sums.group, sizeof(of_rest));
    const auto sum_of = [&](int k) { return (of_rest[k][0] + of_rest[k][2]) + (of_rest[k][1] + of_rest[k][3]); };
    const double sum = (sum_of(0) + sum_of(2)) + (sum_of(1) + sum_of(3));
    return sum < 0x1p256 ? Partial{sum, 0.0} : measure_elements(g, n);
}

inline Partial measure_raw(Element element, const void* source, std::int64_t n) {
    if (element == Element::float64) {
        return measure_elements(static_cast<const double*>(source), n);
    }
    if (element == Element::float32) {
        return measure_elements(static_cast<const float*>(source), n);
    }
    if (element == Element::float16) {
        return measure_fast(static_cast<const std::uint16_t*>(source), n);
    }
    return measure_fast(static_cast<const Bfloat16*>(source), n);
}

/// What the overflow check sees: a float64 gradient counts as the float32 number that its variable would take.
inline Partial measure_gradient(double unscale, const Job& job, const void* source, std::int64_t n) {
    Partial partial = measure_raw(job.gradient_element, source, n);
    if (job.gradient_element == Element::float64 && !job.computes_in_double) {
        alignas(64) float buffer[tile];
        scale_in_double(static_cast<const double*>(source), n, unscale, buffer);
        partial.poison = measure_elements(buffer, n).poison;
    }
    return partial;
}

template <class T>
Partial measure_accumulated(double unscale, const Job& job, const void* source, std::int64_t begin, std::int64_t n) {
    alignas(64) T buffer[tile];
    add_accumulated(unscale, job, source, begin, n, buffer);
    return {measure_elements(buffer, n).sum_of_squares, measure_gradient(unscale, job, source, n).poison};
}

inline Partial measure_tile(double unscale, const Job& job, const void* source, std::int64_t begin, std::int64_t n) {
    if (!job.accumulator || job.work != Work::update) {
        return measure_gradient(unscale, job, source, n);
    }
    return job.computes_in_double ? measure_accumulated<double>(unscale, job, source, begin, n)
                                  : measure_accumulated<float>(unscale, job, source, begin, n);
}

inline bool measure(double unscale, const Stretch& stretch, double* sums) {
    GatherBuffer gathered;
    double poison = 0;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const std::int64_t end = end_in(stretch, job);
        for (std::int64_t i = begin_in(stretch, job); i < end; i += tile) {
            const std::int64_t n = end - i < tile ? end - i : tile;
            const void* source = contiguous(*job, i, n, gathered);
            const Partial partial = measure_tile(unscale, *job, source, i, n);
            sums[job->first_partial + static_cast<std::size_t>(i / tile)] = partial.sum_of_squares;
            poison += partial.poison;
        }
    }
    return poison == 0;
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
