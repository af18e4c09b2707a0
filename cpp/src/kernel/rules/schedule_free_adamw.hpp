// Schedule-free AdamW (Defazio et al. 2024).  v <- v + (g^2 - v)(1 - beta_2);  z' = z - lr g / (sqrt(c v) + epsilon)
// x = (w - (1 - beta_1) z) / beta_1;  x <- (1 - 1/t) x + z' / t;  w <- (1 - beta_1) z' + beta_1 x;  z <- z'
// with c = 1 / (1 - beta_2^t). w is the paper's y, which gradients are taken at; z starts as a copy of it.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct ScheduleFreeAdamW {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = false;
    T lr, c, epsilon, beta_1, one_minus_beta_1, inverse_beta_1, one_minus_beta_2, weight, one_minus_weight;

    explicit ScheduleFreeAdamW(const double* s)
        : lr(static_cast<T>(s[0])),
          c(static_cast<T>(s[1])),
          epsilon(static_cast<T>(s[2])),
          beta_1(static_cast<T>(s[3])),
          one_minus_beta_1(static_cast<T>(s[4])),
          inverse_beta_1(static_cast<T>(s[5])),
          one_minus_beta_2(static_cast<T>(s[6])),
          weight(static_cast<T>(s[7])),
          one_minus_weight(static_cast<T>(s[8])) {}

    FUSEDOPT_INLINE void operator()(T& w, T g, T& z, T& v) const {
        v = v + (g * g - v) * one_minus_beta_2;
        const T new_z = z - (lr * g) / (square_root(c * v) + epsilon);
        const T x = one_minus_weight * ((w - one_minus_beta_1 * z) * inverse_beta_1) + weight * new_z;
        w = one_minus_beta_1 * new_z + beta_1 * x;
        z = new_z;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
