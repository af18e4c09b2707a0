// Schedule-free AdamW (Defazio et al. 2024).  v <- v + (g^2 - v)(1 - beta_2);  z' = z - lr g / (sqrt(c v) + epsilon)
// x = (w - (1 - beta_1) z) / beta_1;  x <- (1 - 1/t) x + z' / t;  w <- (1 - beta_1) z' + beta_1 x;  z <- z'
// with c = 1 / (1 - beta_2^t). w is the paper's y, which gradients are taken at; z starts as a copy of it.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct ScheduleFreeAdamWScalars {
    T lr, c, epsilon, beta_1, one_minus_beta_1, inverse_beta_1, one_minus_beta_2, weight, one_minus_weight;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct ScheduleFreeAdamW {
    static constexpr int slot_count = 2;
    ScheduleFreeAdamWScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& z, T& v) const {
        v = v + (g * g - v) * s.one_minus_beta_2;
        const T new_z = z - (s.lr * g) / (square_root(s.c * v) + s.epsilon);
        const T x = s.one_minus_weight * ((w - s.one_minus_beta_1 * z) * s.inverse_beta_1) + s.weight * new_z;
        w = s.one_minus_beta_1 * new_z + s.beta_1 * x;
        z = new_z;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
