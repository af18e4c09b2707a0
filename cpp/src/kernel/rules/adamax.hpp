// Adamax (Kingma & Ba 2015, section 7.1).  m <- m + (g - m)(1 - beta_1);  u <- max(beta_2 u, |g|)
// w <- w - alpha m / (u + epsilon),  alpha = lr / (1 - beta_1^t)
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Adamax {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = false;
    T alpha, one_minus_beta_1, beta_2, epsilon;

    explicit Adamax(const double* s)
        : alpha(static_cast<T>(s[0])),
          one_minus_beta_1(static_cast<T>(s[1])),
          beta_2(static_cast<T>(s[2])),
          epsilon(static_cast<T>(s[3])) {}

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m, T& u) const {
        m = m + (g - m) * one_minus_beta_1;
        u = maximum(beta_2 * u, absolute(g));
        w = w - (alpha * m) / (u + epsilon);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
