// Lion (Chen et al. 2023).  c = beta_1 m + (1 - beta_1) g;  w <- w - lr sign(c);  m <- beta_2 m + (1 - beta_2) g
// sign(0) = 0 and sign(NaN) = NaN.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct LionScalars {
    T lr, beta_1, one_minus_beta_1, beta_2, one_minus_beta_2;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Lion {
    static constexpr int slot_count = 1;
    LionScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m) const {
        const T c = s.beta_1 * m + s.one_minus_beta_1 * g;
        w = w - times_sign(s.lr, c);
        m = s.beta_2 * m + s.one_minus_beta_2 * g;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
