// The limit that a benchmark compares with, the plainest loop that reads some arrays and reads and writes others. It
// writes back what it read, as it adds 0 x. So it can run on an optimizer's own memory, and it must, because the limit
// depends on where the arrays lie.
#pragma once

#include "kernel/border/plain_loop.hpp"
#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <int updated, int read, int narrow>
FUSEDOPT_INLINE void plain_loop_over(const Moved& moved, std::int64_t begin, std::int64_t end) {
    float* w[updated > 0 ? updated : 1];
    const float* r[read > 0 ? read : 1];
    const std::uint16_t* n = moved.narrow;
    for (int k = 0; k < updated; ++k) w[k] = moved.updated[k];
    for (int k = 0; k < read; ++k) r[k] = moved.read[k];
    float seen = 0;
#pragma omp simd reduction(+ : seen)
    for (std::int64_t i = begin; i < end; ++i) {
        float x = 0;
        for (int k = 0; k < read; ++k) x += r[k][i];
        if constexpr (narrow != 0) x += static_cast<float>(n[i]);
        for (int k = 0; k < updated; ++k) w[k][i] += x * 0.0f;
        if constexpr (updated == 0) seen += x;
    }
    if constexpr (updated == 0) {
        volatile float sink = seen;
        (void)sink;
    }
}

template <int updated, int narrow>
void plain_loop_reading(const Moved& moved, std::int64_t begin, std::int64_t end) {
    if (moved.read_count == 0) plain_loop_over<updated, 0, narrow>(moved, begin, end);
    if (moved.read_count == 1) plain_loop_over<updated, 1, narrow>(moved, begin, end);
    if (moved.read_count == 2) plain_loop_over<updated, 2, narrow>(moved, begin, end);
}

template <int updated>
void plain_loop_updating(const Moved& moved, std::int64_t begin, std::int64_t end) {
    if (moved.narrow) {
        plain_loop_reading<updated, 1>(moved, begin, end);
    } else {
        plain_loop_reading<updated, 0>(moved, begin, end);
    }
}

/// Adds a zero that the compiler does not know to words of any bits, array after array. As floats, some would change.
inline void plain_loop_over_words(const Moved& moved, std::int64_t begin, std::int64_t end) {
    volatile std::uint32_t unknown = 0;
    std::uint32_t seen = unknown;
    for (int k = 0; k < moved.read_count; ++k) {
        const auto* r = reinterpret_cast<const std::uint32_t*>(moved.read[k]);
#pragma omp simd reduction(+ : seen)
        for (std::int64_t i = begin; i < end; ++i) seen += r[i];
    }
    const std::uint32_t zero = unknown;
    for (int k = 0; k < moved.updated_count; ++k) {
        auto* w = reinterpret_cast<std::uint32_t*>(moved.updated[k]);
#pragma omp simd
        for (std::int64_t i = begin; i < end; ++i) w[i] += zero;
    }
    unknown = seen;
}

inline void plain_loop(const Moved& moved, std::int64_t begin, std::int64_t end) {
    static_assert(most_updated == 5 && most_read == 2);
    if (moved.is_words) return plain_loop_over_words(moved, begin, end);
    if (moved.updated_count == 0) plain_loop_updating<0>(moved, begin, end);
    if (moved.updated_count == 1) plain_loop_updating<1>(moved, begin, end);
    if (moved.updated_count == 2) plain_loop_updating<2>(moved, begin, end);
    if (moved.updated_count == 3) plain_loop_updating<3>(moved, begin, end);
    if (moved.updated_count == 4) plain_loop_updating<4>(moved, begin, end);
    if (moved.updated_count == 5) plain_loop_updating<5>(moved, begin, end);
}

/// Rows of some tables. With `ahead`, each line of a row is moved while the same line of a later row is fetched.
template <int updated>
void plain_loop_over_rows(const MovedRows& moved, std::int64_t begin, std::int64_t end) {
    constexpr std::int64_t line = 16;
    const auto row_at = [&](std::int64_t i) {
        Moved row{};
        for (int k = 0; k < updated; ++k) row.updated[k] = moved.updated[k] + moved.rows[i] * moved.row_size;
        row.read[0] = moved.read + moved.positions[i] * moved.row_size;
        return row;
    };
    for (std::int64_t i = begin; i < end; ++i) {
        const Moved row = row_at(i);
        if (moved.ahead == 0) {
            plain_loop_over<updated, 1, 0>(row, 0, moved.row_size);
            continue;
        }
        const std::int64_t next = i + moved.ahead;
        const Moved later = row_at(next < moved.count ? next : i);
        for (std::int64_t j = 0; j < moved.row_size; j += line) {
            for (int k = 0; k < updated; ++k) __builtin_prefetch(later.updated[k] + j);
            __builtin_prefetch(later.read[0] + j);
            plain_loop_over<updated, 1, 0>(row, j, j + line < moved.row_size ? j + line : moved.row_size);
        }
    }
}

/// The same for the rows [begin, end) of those that are moved.
inline void plain_row_loop(const MovedRows& moved, std::int64_t begin, std::int64_t end) {
    static_assert(most_updated == 5);
    if (moved.updated_count == 1) plain_loop_over_rows<1>(moved, begin, end);
    if (moved.updated_count == 2) plain_loop_over_rows<2>(moved, begin, end);
    if (moved.updated_count == 3) plain_loop_over_rows<3>(moved, begin, end);
    if (moved.updated_count == 4) plain_loop_over_rows<4>(moved, begin, end);
    if (moved.updated_count == 5) plain_loop_over_rows<5>(moved, begin, end);
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
