// The border to LAMB's kernels: plain data and function pointers, as in kernel.hpp.
#pragma once

#include "kernel/kernel.hpp"

namespace fusedopt::kernel {

template <class T>
struct LambScalars {
    T lr, a, c, one_minus_beta_1, one_minus_beta_2, epsilon;
};

struct LambKernels {
    /// Moves the slots, unless they are coded, and sums each tile's squares. `squares` are those of all variables.
    void (*advance)(const Step&, const Stretch&, Squares* squares);
    SweepFunction settle;  // moves the variables, by the jobs' ratios, and coded slots
};

}  // namespace fusedopt::kernel
