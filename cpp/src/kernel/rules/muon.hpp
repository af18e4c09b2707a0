// Muon (Jordan et al. 2024).  d = m' = mu m + g, or Nesterov's g + mu m';  O = Newton-Schulz(d / (|d| + 1e-7))
// m <- m';  w <- w - lr O.  The matrix products between are the caller's; slot 1 holds d, then O.
#pragma once

#include "kernel/measure.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Muon {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = false;
    T lr, mu;
    bool nesterov;

    explicit Muon(const double* s) : lr(static_cast<T>(s[0])), mu(static_cast<T>(s[1])), nesterov(s[2] != 0.0) {}

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m, T& orthogonal) const {
        m = mu * m + g;
        w = w - lr * orthogonal;
    }

    FUSEDOPT_INLINE T direction(T g, T m) const {
        const T moved = mu * m + g;
        return nesterov ? g + mu * moved : moved;
    }
};

template <class T>
void muon_direct(const Step& step, const Job& job, std::int64_t begin, std::int64_t end, double* sums) {
    const Muon<T> rule(step.scalars);
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    for (std::int64_t i = begin; i < end; i += tile) {
        const std::int64_t n = end - i < tile ? end - i : tile;
        const T* m = static_cast<const T*>(job.slots[0]) + i;
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

template <class T>
void muon_combine(double a, const void* x, double b, const void* y, void* out, std::int64_t begin, std::int64_t end) {
    const T first = static_cast<T>(a), second = static_cast<T>(b);
    const T* u = static_cast<const T*>(x);
    const T* v = static_cast<const T*>(y);
    T* sum = static_cast<T*>(out);
#pragma omp simd
    for (std::int64_t i = begin; i < end; ++i) {
        sum[i] = first * u[i] + second * v[i];
    }
}

template <class T>
inline constexpr MuonKernels muon_kernels = {muon_direct<T>, muon_combine<T>};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
