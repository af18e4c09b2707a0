// Adafactor (Shazeer & Stern 2018), with b = 1 - t^beta_2_decay and rho = min(lr, 1 / sqrt(t)):
//
//   r <- b r + (1 - b) (mean of g^2 in each row + epsilon_1),  c <- the same in each column
//   u_ij = g_ij / sqrt(r_i / mean(r)) / sqrt(c_j)
//   w <- w - a u,  a = max(epsilon_2, rms(w)) rho / max(1, rms(u) / clip_threshold)
//
// A vector has one moment an element instead:  v <- b v + (1 - b) (g^2 + epsilon_1),  u = g / sqrt(v).
// Where a moment is zero so is the update. The means and norms are put together elsewhere; job.ratio brings a.
// One file, though long: its three sweeps share the order in which a block is walked and summed.
#pragma once

#include "kernel/sweep.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

struct AdafactorScalars {
    double rho, keep, epsilon_1;

    explicit AdafactorScalars(const double* s) : rho(s[0]), keep(s[1]), epsilon_1(s[2]) {}
};

template <class T>
FUSEDOPT_INLINE T whitened(T g, T moment) {
    return moment == T(0) ? T(0) : g / square_root(moment);  // a NaN stays one
}

/// out <- 1 / sqrt(means / mean), or 0 where they are.
template <class T>
void inverse_roots(const T* means, double mean, std::int64_t n, T* out) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        const double x = static_cast<double>(means[i]);
        out[i] = static_cast<T>(x == 0.0 ? 0.0 : 1.0 / square_root(x / mean));
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

/// How many elements ahead memory is fetched: in the next row where a block is narrower than its matrix, as a processor
/// finds no stream to follow there.
template <class T>
std::int64_t distance_ahead(const Block& block) {
    return block.columns == block.row_length ? prefetch_bytes / static_cast<std::int64_t>(sizeof(T)) : block.row_length;
}

// Into the second cache: so many lines in flight leave the first one no room for others.
template <class T>
FUSEDOPT_INLINE void fetch(const T* address) {
    __builtin_prefetch(address, 0, 2);
}

/// As many columns of a row as there are lanes: squares of the gradient into both sums, of the weight into the lanes of
/// its own.
template <class T>
FUSEDOPT_INLINE void sum_lanes(const T* w, const T* g, T scale, T clip, T keep, double* columns, Lanes& row,
                               Lanes& weight) {
    alignas(64) T x[lanes], y[lanes];
    Lanes unused;
#pragma omp simd
    for (int j = 0; j < lanes; ++j) {
        x[j] = larger(-clip, smaller(clip, g[j] * scale));
        y[j] = w[j] * keep;
    }
#pragma GCC unroll 8
    for (int k = 0; k < Lanes::groups; ++k) {
        const Doubles square = to_double(x + doubles * k) * to_double(x + doubles * k);
        row.group[k] += square;
        const Doubles sum = to_double(columns + doubles * k) + square;
        __builtin_memcpy(columns + doubles * k, &sum, sizeof(sum));
    }
    add_row(y, weight, unused);
}

template <class T>
FUSEDOPT_INLINE double sum_row(std::int64_t ahead, const T* w, const T* g, T scale, T clip, T keep, std::int64_t n,
                               double* columns, Lanes& all_weights) {
    Lanes row, weight = all_weights;  // in registers
    std::int64_t j = 0;
    for (; j + lanes <= n; j += lanes) {
        fetch(w + j + ahead);
        fetch(g + j + ahead);
        sum_lanes(w + j, g + j, scale, clip, keep, columns + j, row, weight);
    }
    if (j < n) {
        T last_w[lanes] = {}, last_g[lanes] = {};
        double last_columns[lanes] = {};
        const auto rest = static_cast<unsigned long>(n - j);
        __builtin_memcpy(last_w, w + j, rest * sizeof(T));
        __builtin_memcpy(last_g, g + j, rest * sizeof(T));
        __builtin_memcpy(last_columns, columns + j, rest * sizeof(double));
        sum_lanes(last_w, last_g, scale, clip, keep, last_columns, row, weight);
        __builtin_memcpy(columns + j, last_columns, rest * sizeof(double));
    }
    all_weights = weight;
    return row.sum();
}

template <class T>
void adafactor_sums(const Step& step, const Job& job, const Block& block) {
    const std::int64_t ahead = distance_ahead<T>(block);
    const T clip = static_cast<T>(step.clipvalue);
    const T keep = keep_of<T>(step, job);
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    Lanes weight;
    __builtin_memset(block.column_sums, 0, static_cast<unsigned long>(block.columns) * sizeof(double));
    for_each_chunk(block, [&](const Chunk& chunk) {
        if (job.storage) {
            reconcile(job, chunk.begin, chunk.size());
        }
        const T* w = static_cast<const T*>(job.weight) + chunk.begin;
        const T* g;
        const void* source = contiguous(job, chunk.begin, chunk.size(), gathered);
        const T scale = load_averaged(job, source, chunk.begin, chunk.size(), g, buffer);
        for (std::int64_t k = 0; k < chunk.rows; ++k) {
            const double sum = sum_row(ahead, w + k * chunk.columns, g + k * chunk.columns, scale, clip, keep,
                                       chunk.columns, block.column_sums + chunk.column, weight);
            double& row_sum = block.row_sums[chunk.row + k];
            row_sum = chunk.column == 0 ? sum : row_sum + sum;
        }
    });
    block.norms->weight = weight.sum();
}

/// The factors that stand for a block's moments.
template <class T>
struct Factors {
    alignas(64) T columns[widest_block];
    alignas(64) T rows[tile];  // of a chunk

    FUSEDOPT_INLINE void set_columns(const Block& block) {
        inverse_roots(static_cast<const T*>(block.column_means), 1.0, block.columns, columns);
    }
    FUSEDOPT_INLINE void set_rows(const Block& block, const Chunk& chunk) {
        inverse_roots(static_cast<const T*>(block.row_means) + chunk.row, block.mean, chunk.rows, rows);
    }
};

/// Elements [first, last) of a row's update.
template <class T>
FUSEDOPT_INLINE void whiten(const T* g, T scale, T clip, T row, const T* columns, std::int64_t n, T* update) {
#pragma omp simd
    for (std::int64_t j = 0; j < n; ++j) {
        update[j] = (larger(-clip, smaller(clip, g[j] * scale)) * row) * columns[j];
    }
}

template <class T>
FUSEDOPT_INLINE void lengthen_row(std::int64_t ahead, const T* g, T scale, T clip, T row, const T* columns,
                                  std::int64_t n, Lanes& all_directions) {
    Lanes direction = all_directions, unused;  // in registers
    alignas(64) T update[lanes];
    std::int64_t j = 0;
    for (; j + lanes <= n; j += lanes) {
        fetch(g + j + ahead);
        whiten(g + j, scale, clip, row, columns + j, lanes, update);
        add_row(update, direction, unused);
    }
    if (j < n) {
        __builtin_memset(update, 0, sizeof(update));
        whiten(g + j, scale, clip, row, columns + j, n - j, update);
        add_row(update, direction, unused);
    }
    all_directions = direction;
}

template <class T>
void adafactor_lengthen(const Step& step, const Job& job, const Block& block) {
    const std::int64_t ahead = distance_ahead<T>(block);
    const T clip = static_cast<T>(step.clipvalue);
    Factors<T> factors;
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    Lanes direction;
    factors.set_columns(block);
    for_each_chunk(block, [&](const Chunk& chunk) {
        factors.set_rows(block, chunk);
        const T* g;
        const void* source = contiguous(job, chunk.begin, chunk.size(), gathered);
        const T scale = load_averaged(job, source, chunk.begin, chunk.size(), g, buffer);
        for (std::int64_t k = 0; k < chunk.rows; ++k) {
            lengthen_row(ahead, g + k * chunk.columns, scale, clip, factors.rows[k], factors.columns + chunk.column,
                         chunk.columns, direction);
        }
    });
    block.norms->direction = direction.sum();
}

/// w <- keep w - a u.
template <class T>
FUSEDOPT_INLINE void settle_elements(T* w, T keep, T a, const T* update, std::int64_t n) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        w[i] = w[i] * keep - a * update[i];
    }
}

template <class T>
FUSEDOPT_INLINE void settle_row(std::int64_t ahead, T* w, T keep, T a, const T* g, T scale, T clip, T row,
                                const T* columns, std::int64_t n) {
    alignas(64) T update[lanes];
    std::int64_t j = 0;
    for (; j + lanes <= n; j += lanes) {
        fetch(w + j + ahead);
        fetch(g + j + ahead);
        whiten(g + j, scale, clip, row, columns + j, lanes, update);
        settle_elements(w + j, keep, a, update, lanes);
    }
    whiten(g + j, scale, clip, row, columns + j, n - j, update);
    settle_elements(w + j, keep, a, update, n - j);
}

template <class T>
void adafactor_settle(const Step& step, const Job& job, const Block& block) {
    const std::int64_t ahead = distance_ahead<T>(block);
    const T clip = static_cast<T>(step.clipvalue);
    const T keep = keep_of<T>(step, job);
    const T a = static_cast<T>(job.ratio);
    Factors<T> factors;
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    factors.set_columns(block);
    for_each_chunk(block, [&](const Chunk& chunk) {
        factors.set_rows(block, chunk);
        T* w = static_cast<T*>(job.weight) + chunk.begin;
        const T* g;
        const void* source = contiguous(job, chunk.begin, chunk.size(), gathered);
        const T scale = load_averaged(job, source, chunk.begin, chunk.size(), g, buffer);
        for (std::int64_t k = 0; k < chunk.rows; ++k) {
            settle_row(ahead, w + k * chunk.columns, keep, a, g + k * chunk.columns, scale, clip, factors.rows[k],
                       factors.columns + chunk.column, chunk.columns);
        }
        empty_accumulator<T>(job, chunk.begin, chunk.size());
        finish_tile<T>(step, job, chunk.begin, chunk.size());
    });
}

template <class T>
void adafactor_advance_whole(const Step& step, const Job& job, const Block& block) {
    const AdafactorScalars scalars(step.scalars);
    const T clip = static_cast<T>(step.clipvalue);
    const T keep = static_cast<T>(scalars.keep), move = static_cast<T>(1.0 - scalars.keep);
    const T epsilon_1 = static_cast<T>(scalars.epsilon_1);
    const T weight_keep = keep_of<T>(step, job);
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    TrustPartial norms = {};
    for (std::int64_t i = block.first; i < block.first + block.columns; i += tile) {
        const std::int64_t rest = block.first + block.columns - i;
        const std::int64_t n = rest < tile ? rest : tile;
        if (job.storage) {
            reconcile(job, i, n);
        }
        const T* w = static_cast<const T*>(job.weight) + i;
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            buffer[j] = w[j] * weight_keep;
        }
        norms.weight += measure_elements(buffer, n).sum_of_squares;
        T* v = static_cast<T*>(job.slots[2]) + i;
        const T* g;
        const T scale = load_averaged(job, contiguous(job, i, n, gathered), i, n, g, buffer);
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            const T x = larger(-clip, smaller(clip, g[j] * scale));
            v[j] = keep * v[j] + move * (x * x + epsilon_1);
            buffer[j] = whitened(x, v[j]);
        }
        norms.direction += measure_elements(buffer, n).sum_of_squares;
    }
    *block.norms = norms;
}

template <class T>
void adafactor_settle_whole(const Step& step, const Job& job, const Block& block) {
    const T clip = static_cast<T>(step.clipvalue);
    alignas(64) T update[tile];
    GatherBuffer gathered;
    for (std::int64_t i = block.first; i < block.first + block.columns; i += tile) {
        const std::int64_t rest = block.first + block.columns - i;
        const std::int64_t n = rest < tile ? rest : tile;
        const T* v = static_cast<const T*>(job.slots[2]) + i;
        const T* g;
        const T scale = load_averaged(job, contiguous(job, i, n, gathered), i, n, g, update);
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            update[j] = whitened(larger(-clip, smaller(clip, g[j] * scale)), v[j]);
        }
        settle_elements(static_cast<T*>(job.weight) + i, keep_of<T>(step, job), static_cast<T>(job.ratio), update, n);
        empty_accumulator<T>(job, i, n);
        finish_tile<T>(step, job, i, n);
    }
}

template <class T>
double adafactor_average(void* means, double keep, double epsilon_1, const double* sums, std::int64_t parts,
                         std::int64_t stride, std::int64_t terms, std::int64_t begin, std::int64_t end) {
    T* mean = static_cast<T*>(means);
    const double share = 1.0 / static_cast<double>(terms);
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
                static_cast<T>(keep * static_cast<double>(mean[i + j]) + (1.0 - keep) * (share * sum[j] + epsilon_1));
            total += static_cast<double>(mean[i + j]);
        }
    }
    return total;
}

template <class T>
void adafactor_expand(double row_mean, double mean, const void* column_means, std::int64_t columns, void* out) {
    const T* c = static_cast<const T*>(column_means);
    const T factor = static_cast<T>(row_mean == 0.0 ? 0.0 : row_mean / mean);
    T* v = static_cast<T*>(out);
    for (std::int64_t j = 0; j < columns; ++j) {
        v[j] = factor * c[j];
    }
}

template <class T>
inline constexpr AdafactorKernels adafactor_kernels = {
    adafactor_sums<T>,         adafactor_lengthen<T>, adafactor_settle<T>, adafactor_advance_whole<T>,
    adafactor_settle_whole<T>, adafactor_average<T>,  adafactor_expand<T>,
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
