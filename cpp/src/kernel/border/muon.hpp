// The border to Muon's kernels: plain data and function pointers, as in kernel.hpp.
#pragma once

#include "kernel/kernel.hpp"

namespace fusedopt::kernel {

template <class T>
struct MuonScalars {
    T lr, mu, nesterov;  // 1 or 0
};

/// For products of float32, of float64 and of bfloat16, in this order. Matrices that are multiplied, X, P and S, may be
/// narrower than the compute type.
struct MuonKernels {
    /// The direction that is to be made orthogonal, into slot 1, and each tile's sum of squares.
    void (*make_direction)(const Step&, const Job&, std::int64_t begin, std::int64_t end, double* sums);
    /// X <- a x, or its transpose.
    void (*scale)(double a, const void* x, std::int64_t rows, std::int64_t columns, bool transposes, void* out);
    /// Rows [begin, end) of S <- a I + b S + c P, and the same above the diagonal. P has `end` columns. S is not read
    /// with b = 0.
    void (*fold)(const double (&polynomial)[3], const void* p, std::int64_t begin, std::int64_t end, std::int64_t side,
                 void* s);
    /// out <- X, in the compute type.
    void (*widen)(const void* x, std::int64_t n, void* out);
};

}  // namespace fusedopt::kernel
