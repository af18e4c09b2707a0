// Adafactor (Shazeer & Stern 2018), with b = 1 - t^beta_2_decay and rho = min(lr, 1 / sqrt(t)):
//
//   r <- b r + (1 - b) (mean of g^2 in each row + epsilon_1),  c <- the same in each column
//   u_ij = g_ij / sqrt(r_i / mean(r)) / sqrt(c_j)
//   w <- w - a u,  a = max(epsilon_2, rms(w)) rho / max(1, rms(u) / clip_threshold)
//
// A vector has one moment per element instead:  v <- b v + (1 - b) (g^2 + epsilon_1),  u = g / sqrt(v).
// If a moment is zero, so is the update. The means and norms are put together elsewhere; job.ratio brings a. Codes of
// a vector's v would give another u. So if v is coded, the first sweep does not store it, and the second one moves it
// again and stores it after w. One file, though long: the three sweeps go over the same blocks.
#pragma once

#include "kernel/border/adafactor.hpp"
#include "kernel/sweep.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
FUSEDOPT_INLINE T whitened(T g, T moment) {
    return moment == T(0) ? T(0) : g / square_root(moment);  // a NaN stays one
}

/// out <- 1 / sqrt(means / mean), or 0 where they are, unless the mean is infinite or NaN.
template <class T>
void inverse_roots(const T* means, double mean, std::int64_t n, T* out) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        const double x = static_cast<double>(means[i]);
        out[i] = static_cast<T>(x == 0.0 ? x * mean : 1.0 / square_root(x / mean));
    }
}

/// Part of a block in memory without gaps: as many whole rows as a tile holds, or a tile of one row at most.
struct Chunk {
    std::int64_t begin, row, column, rows, columns;

    FUSEDOPT_INLINE std::int64_t size() const { return rows * columns; }
};

template <class Body>
FUSEDOPT_INLINE void for_each_chunk(const Block& block, const Body& body) {
    const bool is_whole = block.columns == block.row_length && block.columns <= tile;
    const std::int64_t rows = is_whole ? tile / block.columns : 1;
    for (std::int64_t row = 0; row < block.rows; row += rows) {
        for (std::int64_t column = 0; column < block.columns; column += tile) {
            body(Chunk{block.first + row * block.row_length + column, row, column,
                       block.rows - row < rows ? block.rows - row : rows,
                       block.columns - column < tile ? block.columns - column : tile});
        }
    }
}

/// Numbers of a row that are computed before they are summed: few, so that memory is fetched all the while.
inline constexpr std::int64_t span = 4 * lanes;

/// Calls body(begin, end) for each span of a row.
template <class Body>
FUSEDOPT_INLINE void for_each_span(std::int64_t n, const Body& body) {
    std::int64_t i = 0;
    for (; i + span <= n; i += span) body(i, i + span);
    if (i < n) body(i, n);
}

/// Makes what follows n numbers zero, up to the end of a row of lanes, and returns where that is.
template <class T>
FUSEDOPT_INLINE std::int64_t pad(T* numbers, std::int64_t n) {
    for (; n % lanes != 0; ++n) numbers[n] = 0;
    return n;
}

template <class T>
FUSEDOPT_INLINE Doubles add_square(Doubles sum, Doubles x) {
    return sizeof(T) == 4 ? add_exact_square(sum, x) : sum + x * x;
}

/// Squares of as many columns as there are lanes, into the sums of their row and of the columns.
template <class T>
FUSEDOPT_INLINE void add_columns(const T* x, double* columns, Lanes& row) {
#pragma GCC unroll 8
    for (int k = 0; k < Lanes::groups; ++k) {
        const Doubles number = to_double(x + doubles * k);
        row.group[k] = add_square<T>(row.group[k], number);
        const Doubles sum = add_square<T>(to_double(columns + doubles * k), number);
        __builtin_memcpy(columns + doubles * k, &sum, sizeof(sum));
    }
}

/// Squares of a row's gradient into the sums of its columns, of its weight into lanes; returns the gradient's sum.
template <class T>
FUSEDOPT_INLINE double sum_row(const T* w, const T* g, T scale, T keep, std::int64_t n, double* columns,
                               Lanes& weight) {
    alignas(64) T x[span];
    alignas(64) T y[span];
    Lanes row;
    for_each_span(
        n, [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
            const std::int64_t count = end - begin;
            for_each_line<T>(
                count, [&](std::int64_t first, std::int64_t last) __attribute__((always_inline)) {
                    prefetch_far(w + begin + first);
                    prefetch_far(g + begin + first);
#pragma omp simd
                    for (std::int64_t j = first; j < last; ++j) {
                        x[j] = g[begin + j] * scale;
                        y[j] = w[begin + j] * keep;
                    }
                });
            std::int64_t j = 0;
            for (; j + lanes <= count; j += lanes) add_columns(x + j, columns + begin + j, row);
            if (j < count) {
                double last_columns[lanes] = {};
                const auto bytes = static_cast<unsigned long>(count - j) * sizeof(double);
                __builtin_memcpy(last_columns, columns + begin + j, bytes);
                pad(x, count);
                add_columns(x + j, last_columns, row);
                __builtin_memcpy(columns + begin + j, last_columns, bytes);
            }
            add_rows(y, pad(y, count), weight);
        });
    return row.sum();
}

template <class T>
void adafactor_sums(const Step& step, const Job& job, const Block& block) {
    const T keep = keep_of<T>(step, job);
    alignas(64) T buffer[tile], widened[tile];
    GatherBuffer gathered;
    Lanes weight;
    __builtin_memset(block.column_sums, 0, static_cast<unsigned long>(block.columns) * sizeof(double));
    for_each_chunk(block, [&](const Chunk& chunk) {
        const T* w = open_piece(job, chunk.begin, chunk.size(), widened);
        const T* g;
        const void* source = contiguous(job, chunk.begin, chunk.size(), gathered);
        const T scale = prepare(step, job, source, chunk.begin, chunk.size(), g, buffer);
        for (std::int64_t k = 0; k < chunk.rows; ++k) {
            const double sum = sum_row(w + k * chunk.columns, g + k * chunk.columns, scale, keep, chunk.columns,
                                       block.column_sums + chunk.column, weight);
            double& row_sum = block.row_sums[chunk.row + k];
            row_sum = chunk.column == 0 ? sum : row_sum + sum;
        }
    });
    block.squares->weight = weight.sum();
}

/// The factors that stand for the moments of a chunk's rows.
template <class T>
struct RowFactors {
    alignas(64) T rows[tile];

    RowFactors(const Block& block, const Chunk& chunk) {
        inverse_roots(static_cast<const T*>(block.row_means) + chunk.row, block.mean, chunk.rows, rows);
    }
    FUSEDOPT_INLINE T operator[](std::int64_t row) const { return rows[row]; }
};

/// The update of a row of a matrix.
template <class T>
struct Whitening {
    T scale, row;
    const T* columns;

    FUSEDOPT_INLINE T operator()(T g, std::int64_t j) const { return g * scale * row * columns[j]; }
};

template <class T>
FUSEDOPT_INLINE void measure_update_of_row(const T* g, Whitening<T> whiten, std::int64_t n, Lanes& squares) {
    alignas(64) T update[span];
    for_each_span(
        n, [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
            for_each_line<T>(
                end - begin, [&](std::int64_t first, std::int64_t last) __attribute__((always_inline)) {
                    prefetch_far(g + begin + first);
#pragma omp simd
                    for (std::int64_t j = first; j < last; ++j) {
                        update[j] = whiten(g[begin + j], begin + j);
                    }
                });
            add_rows(update, pad(update, end - begin), squares);
        });
}

template <class T>
void adafactor_measure_update(const Step& step, const Job& job, const Block& block) {
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    Lanes update;
    for_each_chunk(block, [&](const Chunk& chunk) {
        const RowFactors<T> rows(block, chunk);
        const T* columns = static_cast<const T*>(block.column_factors) + chunk.column;
        const T* g;
        const void* source = contiguous(job, chunk.begin, chunk.size(), gathered);
        const T scale = prepare(step, job, source, chunk.begin, chunk.size(), g, buffer);
        for (std::int64_t k = 0; k < chunk.rows; ++k) {
            measure_update_of_row(g + k * chunk.columns, {scale, rows[k], columns}, chunk.columns, update);
        }
    });
    block.squares->update = update.sum();
}

/// w <- keep w - a u
template <class T>
FUSEDOPT_INLINE void settle_row(T* w, T keep, T a, const T* g, Whitening<T> whiten, std::int64_t n) {
    for_each_line<T>(
        n, [&](std::int64_t begin, std::int64_t end) __attribute__((always_inline)) {
            prefetch_far(w + begin);
            prefetch_far(g + begin);
#pragma omp simd
            for (std::int64_t j = begin; j < end; ++j) {
                w[j] = w[j] * keep - a * whiten(g[j], j);
            }
        });
}

template <class T>
void adafactor_settle(const Step& step, const Job& job, const Block& block) {
    const T keep = keep_of<T>(step, job);
    const T a = static_cast<T>(job.ratio);
    alignas(64) T buffer[tile], widened[tile];
    GatherBuffer gathered;
    for_each_chunk(block, [&](const Chunk& chunk) {
        const RowFactors<T> rows(block, chunk);
        const T* columns = static_cast<const T*>(block.column_factors) + chunk.column;
        T* w = open_again(job, chunk.begin, chunk.size(), widened);
        const T* g;
        const void* source = contiguous(job, chunk.begin, chunk.size(), gathered);
        const T scale = prepare(step, job, source, chunk.begin, chunk.size(), g, buffer);
        for (std::int64_t k = 0; k < chunk.rows; ++k) {
            settle_row(w + k * chunk.columns, keep, a, g + k * chunk.columns, {scale, rows[k], columns}, chunk.columns);
        }
        empty_accumulator<T>(job, chunk.begin, chunk.size());
        finish_tile(step, job, chunk.begin, chunk.size(), w);
    });
}

/// The second moment of a vector.
template <class T>
struct Velocity {
    T b, one_minus_b, epsilon_1;

    explicit Velocity(const Step& step) {
        const auto scalars = with_scalars<AdafactorScalars<double>, double>(step.scalars);
        b = static_cast<T>(scalars.b);
        one_minus_b = static_cast<T>(1.0 - scalars.b);
        epsilon_1 = static_cast<T>(scalars.epsilon_1);
    }

    FUSEDOPT_INLINE void advance(T scale, std::int64_t n, const T* g, T* v) const {
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            const T x = g[j] * scale;
            v[j] = b * v[j] + one_minus_b * (x * x + epsilon_1);
        }
    }
};

template <class T>
void adafactor_advance_unfactored(const Step& step, const Job& job, const Block& block) {
    const Velocity<T> moment(step);
    const T keep = keep_of<T>(step, job);
    alignas(64) T buffer[tile], widened[tile], velocity[tile];
    GatherBuffer gathered;
    Squares squares = {};
    for (std::int64_t i = block.first; i < block.first + block.columns; i += tile) {
        const std::int64_t rest = block.first + block.columns - i;
        const std::int64_t n = rest < tile ? rest : tile;
        const T* w = open_piece(job, i, n, widened);
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            buffer[j] = w[j] * keep;
        }
        squares.weight += measure_elements(buffer, n).sum_of_squares;
        T* v = open_numbers(step, job, 2, i, n, velocity);
        const T* g;
        const T scale = prepare(step, job, contiguous(job, i, n, gathered), i, n, g, buffer);
        moment.advance(scale, n, g, v);
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            buffer[j] = whitened(g[j] * scale, v[j]);
        }
        squares.update += measure_elements(buffer, n).sum_of_squares;
    }
    *block.squares = squares;
}

template <class T>
void adafactor_settle_unfactored(const Step& step, const Job& job, const Block& block) {
    const Velocity<T> moment(step);
    const T keep = keep_of<T>(step, job);
    const T a = static_cast<T>(job.ratio);
    alignas(64) T update[tile], widened[tile], velocity[tile];
    GatherBuffer gathered;
    for (std::int64_t i = block.first; i < block.first + block.columns; i += tile) {
        const std::int64_t rest = block.first + block.columns - i;
        const std::int64_t n = rest < tile ? rest : tile;
        T* v = open_numbers(step, job, 2, i, n, velocity);
        const T* g;
        const T scale = prepare(step, job, contiguous(job, i, n, gathered), i, n, g, update);
        if (is_coded(job)) moment.advance(scale, n, g, v);
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            update[j] = whitened(g[j] * scale, v[j]);
        }
        T* w = open_again(job, i, n, widened);
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            w[j] = w[j] * keep - a * update[j];
        }
        close_numbers<T>(step, job, i, n, {nullptr, nullptr, v});
        empty_accumulator<T>(job, i, n);
        finish_tile(step, job, i, n, w);
    }
}

template <class T>
double adafactor_average(void* means, void* factors, double b, double epsilon_1, const double* sums, std::int64_t parts,
                         std::int64_t stride, std::int64_t terms, std::int64_t begin, std::int64_t end) {
    T* mean = static_cast<T*>(means);
    const double inverse_terms = 1.0 / static_cast<double>(terms);
    alignas(64) double sum[tile];
    double total = 0.0;
    for (std::int64_t i = begin; i < end; i += tile) {
        const std::int64_t n = end - i < tile ? end - i : tile;
        __builtin_memset(sum, 0, static_cast<unsigned long>(n) * sizeof(double));
        for (std::int64_t k = 0; k < parts; ++k) {
            const double* part = sums + k * stride + i;
#pragma omp simd
            for (std::int64_t j = 0; j < n; ++j) {
                sum[j] += part[j];
            }
        }
        for (std::int64_t j = 0; j < n; ++j) {
            mean[i + j] =
                static_cast<T>(b * static_cast<double>(mean[i + j]) + (1.0 - b) * (inverse_terms * sum[j] + epsilon_1));
            total += static_cast<double>(mean[i + j]);
        }
        if (factors) {
            inverse_roots(mean + i, 1.0, n, static_cast<T*>(factors) + i);
        }
    }
    return total;
}

template <class T>
void adafactor_expand(double row_mean, double mean, const void* column_means, std::int64_t columns, void* out) {
    const T* c = static_cast<const T*>(column_means);
    const T factor = static_cast<T>(row_mean == 0.0 ? row_mean * mean : row_mean / mean);
    T* v = static_cast<T*>(out);
    for (std::int64_t j = 0; j < columns; ++j) {
        v[j] = factor * c[j];
    }
}

template <class T>
inline constexpr AdafactorKernels adafactor_kernels_on = {
    adafactor_sums<T>,
    adafactor_measure_update<T>,
    adafactor_settle<T>,
    adafactor_advance_unfactored<T>,
    adafactor_settle_unfactored<T>,
    adafactor_average<T>,
    adafactor_expand<T>,
};

inline constexpr AdafactorKernels adafactor_kernels[] = {adafactor_kernels_on<float>, adafactor_kernels_on<double>};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
