// Adafactor (Shazeer & Stern 2018).  q = g^2 + epsilon_1;  b = 1 - t^beta_2_decay;  rho = min(lr, 1 / sqrt(t))
// r <- b r + (1 - b) mean of q in each row;  c <- the same in each column;
// u_ij = g_ij / sqrt(r_i / mean(r)) / sqrt(c_j).
//
// A vector has one moment an element instead:  v <- b v + (1 - b) q;  u = g / sqrt(v).
//
// w <- w - a u,  a = max(epsilon_2, rms(w)) rho / max(1, rms(u) / clip_threshold).
//
// Where a moment is zero so is the update. The norms and a are the caller's; job.ratio brings a.
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

/// Calls body(begin, row, rows) for as many whole rows of a block as a tile holds, or for one row of a part of its
/// width.
template <class Body>
FUSEDOPT_INLINE void for_each_chunk(const Block& block, const Body& body) {
    const std::int64_t fitting = block.columns == block.row_length ? tile / block.columns : 1;
    for (std::int64_t row = 0; row < block.rows; row += fitting) {
        body(block.first + row * block.row_length, row, block.rows - row < fitting ? block.rows - row : fitting);
    }
}

template <class T>
void keep_weights(const Job& job, std::int64_t begin, std::int64_t n, T* out) {
    const T keep = static_cast<T>(job.keep);
    const T* w = static_cast<const T*>(job.weight) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        out[i] = w[i] * keep;
    }
}

template <class T>
void adafactor_sums(const Step& step, const Job& job, const Block& block) {
    const AdafactorScalars scalars(step.scalars);
    const T clip = static_cast<T>(step.clipvalue);
    alignas(64) T buffer[tile];
    alignas(64) double squares[tile];
    GatherBuffer gathered;
    double weight = 0.0;
    __builtin_memset(block.column_sums, 0, static_cast<unsigned long>(block.columns) * sizeof(double));
    for_each_chunk(block, [&](std::int64_t begin, std::int64_t row, std::int64_t rows) {
        const std::int64_t n = rows * block.columns;
        if (job.storage) {
            reconcile(job, begin, n);
        }
        keep_weights(job, begin, n, buffer);
        weight += measure_elements(buffer, n).sum_of_squares;
        const T* g;
        const T scale = load_averaged(job, contiguous(job, begin, n, gathered), begin, n, g, buffer);
#pragma omp simd
        for (std::int64_t i = 0; i < n; ++i) {
            const double x = static_cast<double>(larger(-clip, smaller(clip, g[i] * scale)));
            squares[i] = x * x + scalars.epsilon_1;
        }
        for (std::int64_t k = 0; k < rows; ++k) {
            const double* q = squares + k * block.columns;
            block.row_sums[row + k] = sum_elements(q, block.columns);
#pragma omp simd
            for (std::int64_t j = 0; j < block.columns; ++j) {
                block.column_sums[j] += q[j];
            }
        }
    });
    block.norms->weight = weight;
}

/// The update's elements in a chunk of a factored variable.
template <class T>
FUSEDOPT_INLINE void whiten_chunk(const Step& step, const Job& job, const Block& block, const T* column_factors,
                                  std::int64_t begin, std::int64_t row, std::int64_t rows, T* out) {
    const T clip = static_cast<T>(step.clipvalue);
    const std::int64_t n = rows * block.columns;
    alignas(64) T row_factors[tile];
    GatherBuffer gathered;
    inverse_roots(static_cast<const T*>(block.row_means) + row, block.mean, rows, row_factors);
    const T* g;
    const T scale = load_averaged(job, contiguous(job, begin, n, gathered), begin, n, g, out);
    for (std::int64_t k = 0; k < rows; ++k) {
        const T* x = g + k * block.columns;
        T* u = out + k * block.columns;
        const T row_factor = row_factors[k];
#pragma omp simd
        for (std::int64_t j = 0; j < block.columns; ++j) {
            u[j] = (larger(-clip, smaller(clip, x[j] * scale)) * row_factor) * column_factors[j];
        }
    }
}

template <class T>
void adafactor_lengthen(const Step& step, const Job& job, const Block& block) {
    alignas(64) T column_factors[tile];
    alignas(64) T update[tile];
    inverse_roots(static_cast<const T*>(block.column_means), 1.0, block.columns, column_factors);
    double direction = 0.0;
    for_each_chunk(block, [&](std::int64_t begin, std::int64_t row, std::int64_t rows) {
        whiten_chunk(step, job, block, column_factors, begin, row, rows, update);
        direction += measure_elements(update, rows * block.columns).sum_of_squares;
    });
    block.norms->direction = direction;
}

/// w <- keep w - a u, and what follows every update.
template <class T>
void settle_chunk(const Step& step, const Job& job, const T* update, std::int64_t begin, std::int64_t n) {
    const T keep = static_cast<T>(job.keep);
    const T a = static_cast<T>(job.ratio);
    T* w = static_cast<T*>(job.weight) + begin;
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        w[i] = w[i] * keep - a * update[i];
    }
    empty_accumulator<T>(job, begin, n);
    finish_tile<T>(step, job, begin, n);
}

template <class T>
void adafactor_settle(const Step& step, const Job& job, const Block& block) {
    alignas(64) T column_factors[tile];
    alignas(64) T update[tile];
    inverse_roots(static_cast<const T*>(block.column_means), 1.0, block.columns, column_factors);
    for_each_chunk(block, [&](std::int64_t begin, std::int64_t row, std::int64_t rows) {
        whiten_chunk(step, job, block, column_factors, begin, row, rows, update);
        settle_chunk(step, job, update, begin, rows * block.columns);
    });
}

template <class T>
void adafactor_advance_whole(const Step& step, const Job& job, const Block& block) {
    const AdafactorScalars scalars(step.scalars);
    const T clip = static_cast<T>(step.clipvalue);
    const T keep = static_cast<T>(scalars.keep), move = static_cast<T>(1.0 - scalars.keep);
    const T epsilon_1 = static_cast<T>(scalars.epsilon_1);
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    TrustPartial norms = {};
    for (std::int64_t i = block.first; i < block.first + block.columns; i += tile) {
        const std::int64_t rest = block.first + block.columns - i;
        const std::int64_t n = rest < tile ? rest : tile;
        if (job.storage) {
            reconcile(job, i, n);
        }
        keep_weights(job, i, n, buffer);
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
        settle_chunk(step, job, update, i, n);
    }
}

template <class T>
double adafactor_average(void* means, double keep, const double* sums, std::int64_t parts, std::int64_t stride,
                         std::int64_t terms, std::int64_t begin, std::int64_t end) {
    T* mean = static_cast<T*>(means);
    const double share = (1.0 - keep) / static_cast<double>(terms);
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
            mean[i + j] = static_cast<T>(keep * static_cast<double>(mean[i + j]) + share * sum[j]);
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
