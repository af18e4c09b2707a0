// Yogi (Zaheer et al. 2018).  m <- m + (g - m)(1 - beta_1);  v <- v - (1 - beta_2) g^2 sign(v - g^2)
// w <- w - alpha m / (sqrt(c v) + epsilon),  alpha = lr / (1 - beta_1^t),  c = 1 / (1 - beta_2^t)
// The paper corrects no bias; this is optax's form. v never goes below 0, as it falls only where g^2 < v.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct YogiScalars {
    T alpha, c, one_minus_beta_1, one_minus_beta_2, epsilon;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Yogi {
    static constexpr int slot_count = 2, row_slot = 1, row_slots = 1;
    YogiScalars<T> s;

    FUSEDOPT_INLINE void second_moment(T square, T& v) const {
        v = v - times_sign(s.one_minus_beta_2 * square, v - square);
    }

    FUSEDOPT_INLINE void move(T& w, T g, T& m, T v) const {
        m = m + (g - m) * s.one_minus_beta_1;
        w = w - (s.alpha * m) / (square_root(s.c * v) + s.epsilon);
    }

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m, T& v) const {
        second_moment(g * g, v);
        move(w, g, m, v);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
