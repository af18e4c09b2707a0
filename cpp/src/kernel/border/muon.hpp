// The border to Muon's kernels: plain data and function pointers, as in kernel.hpp.
#pragma once

#include "kernel/kernel.hpp"

namespace fusedopt::kernel {

template <class T>
struct MuonScalars {
    T lr, mu, nesterov;  // 1 or 0
};

struct MuonKernels {
    /// The direction that is to be made orthogonal, into slot 1, and each tile's sum of squares.
    void (*make_direction)(const Step&, const Job&, std::int64_t begin, std::int64_t end, double* sums);
    /// out <- a x, or its transpose.
    void (*scale)(double a, const void* x, std::int64_t rows, std::int64_t columns, bool transposes, void* out);
    /// Rows [begin, end) of S <- a I + b S + c P, and the same above the diagonal. P has `end` columns. S is not read
    /// with b = 0.
    void (*fold)(const double (&polynomial)[3], const void* p, std::int64_t begin, std::int64_t end, std::int64_t side,
                 void* s);
};

}  // namespace fusedopt::kernel
