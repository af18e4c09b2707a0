// Muon (Jordan et al. 2024).  d = m' = mu m + g, or Nesterov's g + mu m';  O = Newton-Schulz(d / (|d| + 1e-7))
// m <- m';  w <- w - lr O.  The matrix products between are the caller's; slot 1 holds d, then O.
// A symmetric product is computed up to its diagonal, and the part above is written with it.
// The matrices that are multiplied are of Stored, which may be narrower than the compute type T.
#pragma once

#include "kernel/border/muon.hpp"
#include "kernel/measure.hpp"
#include "kernel/slot_codes.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Muon {
    static constexpr int slot_count = 2, coded_slots = 1;
    MuonScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m, T& orthogonal) const {
        m = s.mu * m + g;
        w = w - s.lr * orthogonal;
    }

    FUSEDOPT_INLINE T direction(T g, T m) const {
        const T moved = s.mu * m + g;
        return s.nesterov != 0 ? g + s.mu * moved : moved;
    }
};

template <class T>
void muon_make_direction(const Step& step, const Job& job, std::int64_t begin, std::int64_t end, double* sums) {
    const auto rule = with_scalars<Muon<T>, T>(step.scalars);
    alignas(64) T buffer[tile], momentum[tile];
    GatherBuffer gathered;
    for (std::int64_t i = begin; i < end; i += tile) {
        const std::int64_t n = end - i < tile ? end - i : tile;
        const T* m = open_numbers(step, job, 0, i, n, momentum);
        T* d = static_cast<T*>(job.slots[1]) + i;
        const T* g;
        const T scale = prepare(step, job, contiguous(job, i, n, gathered), i, n, g, buffer);
#pragma omp simd
        for (std::int64_t j = 0; j < n; ++j) {
            d[j] = rule.direction(g[j] * scale, m[j]);
        }
        sums[i / tile] = measure_elements(d, n).sum_of_squares;
    }
}

FUSEDOPT_INLINE float load(float x) {
    return x;
}
FUSEDOPT_INLINE double load(double x) {
    return x;
}
FUSEDOPT_INLINE float load(Bfloat16 x) {
    return widen_bfloat16(x.bits);
}

FUSEDOPT_INLINE void store(float x, float& out) {
    out = x;
}
FUSEDOPT_INLINE void store(double x, double& out) {
    out = x;
}
FUSEDOPT_INLINE void store(float x, Bfloat16& out) {
    out.bits = narrow_bfloat16(x);
}

/// Blocks of a matrix are small enough for the first cache, whichever way they are written.
inline constexpr std::int64_t block_side = 32;

template <class T, class Stored>
FUSEDOPT_INLINE void write_transposed(const T* block, std::int64_t rows, std::int64_t columns, Stored* out,
                                      std::int64_t stride) {
    alignas(64) T row[block_side];
    for (std::int64_t j = 0; j < columns; ++j) {
        for (std::int64_t i = 0; i < rows; ++i) row[i] = block[i * block_side + j];
#pragma omp simd
        for (std::int64_t i = 0; i < rows; ++i) store(row[i], out[j * stride + i]);
    }
}

template <class T, class Stored>
void muon_scale(double a, const void* x, std::int64_t rows, std::int64_t columns, bool transposes, void* out) {
    const T factor = static_cast<T>(a);
    const T* from = static_cast<const T*>(x);
    Stored* to = static_cast<Stored*>(out);
    if (!transposes) {
#pragma omp simd
        for (std::int64_t k = 0; k < rows * columns; ++k) store(factor * from[k], to[k]);
        return;
    }
    alignas(64) T block[block_side * block_side];
    for (std::int64_t i = 0; i < rows; i += block_side) {
        const std::int64_t height = rows - i < block_side ? rows - i : block_side;
        for (std::int64_t j = 0; j < columns; j += block_side) {
            const std::int64_t width = columns - j < block_side ? columns - j : block_side;
            for (std::int64_t k = 0; k < height; ++k) {
                const T* row = from + (i + k) * columns + j;
#pragma omp simd
                for (std::int64_t l = 0; l < width; ++l) block[k * block_side + l] = factor * row[l];
            }
            write_transposed(block, height, width, to + j * rows + i, rows);
        }
    }
}

template <class T, class Stored>
void muon_fold(const double (&polynomial)[3], const void* p, std::int64_t begin, std::int64_t end, std::int64_t side,
               void* s) {
    const T a = static_cast<T>(polynomial[0]), b = static_cast<T>(polynomial[1]), c = static_cast<T>(polynomial[2]);
    const bool takes_s = polynomial[1] != 0.0;
    Stored* symmetric = static_cast<Stored*>(s);
    alignas(64) T block[block_side * block_side];
    for (std::int64_t i = begin; i < end; i += block_side) {
        const std::int64_t height = end - i < block_side ? end - i : block_side;
        std::int64_t width;
        for (std::int64_t j = 0; j < end; j += width) {
            const std::int64_t border = j < begin ? begin : end;
            width = border - j < block_side ? border - j : block_side;
            for (std::int64_t k = 0; k < height; ++k) {
                const Stored* more = static_cast<const Stored*>(p) + (i + k - begin) * end + j;
                Stored* row = symmetric + (i + k) * side + j;
                T* sums = block + k * block_side;
#pragma omp simd
                for (std::int64_t l = 0; l < width; ++l) {
                    sums[l] = (takes_s ? b * load(row[l]) : T(0)) + c * load(more[l]);
                }
                if (i == j) sums[k] += a;
#pragma omp simd
                for (std::int64_t l = 0; l < width; ++l) store(sums[l], row[l]);
            }
            if (j < begin) write_transposed(block, height, width, symmetric + j * side + i, side);
        }
    }
}

template <class T, class Stored>
void muon_widen(const void* x, std::int64_t n, void* out) {
    const Stored* from = static_cast<const Stored*>(x);
    T* to = static_cast<T*>(out);
#pragma omp simd
    for (std::int64_t k = 0; k < n; ++k) to[k] = load(from[k]);
}

template <class T, class Stored>
inline constexpr MuonKernels muon_kernels_on = {muon_make_direction<T>, muon_scale<T, Stored>, muon_fold<T, Stored>,
                                                muon_widen<T, Stored>};

inline constexpr MuonKernels muon_kernels[] = {muon_kernels_on<float, float>, muon_kernels_on<double, double>,
                                               muon_kernels_on<float, Bfloat16>};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
