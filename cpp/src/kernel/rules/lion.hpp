// Lion (Chen et al. 2023).  c = beta_1 m + (1 - beta_1) g;  w <- w - lr sign(c);  m <- beta_2 m + (1 - beta_2) g
// sign(0) = 0 and sign(NaN) = NaN.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Lion {
    static constexpr int slot_count = 1;
    static constexpr bool has_trust_ratio = false;
    T lr, beta_1, one_minus_beta_1, beta_2, one_minus_beta_2;

    explicit Lion(const double* s)
        : lr(static_cast<T>(s[0])),
          beta_1(static_cast<T>(s[1])),
          one_minus_beta_1(static_cast<T>(s[2])),
          beta_2(static_cast<T>(s[3])),
          one_minus_beta_2(static_cast<T>(s[4])) {}

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m) const {
        const T c = beta_1 * m + one_minus_beta_1 * g;
        w = w - (c > 0 ? lr : c < 0 ? -lr : c);
        m = beta_2 * m + one_minus_beta_2 * g;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
