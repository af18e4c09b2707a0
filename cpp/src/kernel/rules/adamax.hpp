// Adamax (Kingma & Ba 2015, section 7.1).  m <- m + (g - m)(1 - beta_1);  u <- max(beta_2 u, |g|)
// w <- w - alpha m / (u + epsilon),  alpha = lr / (1 - beta_1^t)
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct AdamaxScalars {
    T alpha, one_minus_beta_1, beta_2, epsilon;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Adamax {
    static constexpr int slot_count = 2;
    AdamaxScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m, T& u) const {
        m = m + (g - m) * s.one_minus_beta_1;
        u = maximum(s.beta_2 * u, absolute(g));
        w = w - (s.alpha * m) / (u + s.epsilon);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
