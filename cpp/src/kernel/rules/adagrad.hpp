// Adagrad (Duchi et al. 2011).  a <- a + g^2;  w <- w - lr g / sqrt(a + epsilon)
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Adagrad {
    static constexpr int slot_count = 1;
    static constexpr bool has_trust_ratio = false;
    T lr, epsilon;

    explicit Adagrad(const double* s) : lr(static_cast<T>(s[0])), epsilon(static_cast<T>(s[1])) {}

    FUSEDOPT_INLINE void operator()(T& w, T g, T& a) const {
        a = a + g * g;
        w = w - (lr * g) / square_root(a + epsilon);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
