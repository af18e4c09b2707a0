// Nadam (Dozat 2016).  m <- m + (g - m)(1 - beta_1);  v <- v + (g^2 - v)(1 - beta_2)
// w <- w - (a m + b g) / (sqrt(c v) + epsilon),  with  mu_t = beta_1 (1 - 0.96^t / 2),  U = mu_1 ... mu_t,
// a = lr mu_{t+1} / (1 - U mu_{t+1}),  b = lr (1 - mu_t) / (1 - U),  c = 1 / (1 - beta_2^t)
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct NadamScalars {
    T a, b, c, one_minus_beta_1, one_minus_beta_2, epsilon;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Nadam {
    static constexpr int slot_count = 2, row_slot = 1, row_slots = 1;
    NadamScalars<T> s;

    FUSEDOPT_INLINE void second_moment(T square, T& v) const { v = v + (square - v) * s.one_minus_beta_2; }

    FUSEDOPT_INLINE void move(T& w, T g, T& m, T v) const {
        m = m + (g - m) * s.one_minus_beta_1;
        w = w - (s.a * m + s.b * g) / (square_root(s.c * v) + s.epsilon);
    }

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m, T& v) const {
        second_moment(g * g, v);
        move(w, g, m, v);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
