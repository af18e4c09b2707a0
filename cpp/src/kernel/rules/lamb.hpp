// LAMB (You et al. 2020).  m, v as Adam's;  u = (a m) / (sqrt(c v) + epsilon),  a = 1 / (1 - beta_1^t),  c = 1 / (1 -
// beta_2^t) w <- w - r lr u,  r = |w| / |u| over the whole variable where both norms are positive, else 1. The norms
// split the rule: advance moves m and v and measures, settle moves w. As in Keras, weight decay is decoupled and comes
// before |w| is taken; in the paper it is part of u.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Lamb {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = true;
    T lr, a, c, one_minus_beta_1, one_minus_beta_2, epsilon;

    explicit Lamb(const double* s)
        : lr(static_cast<T>(s[0])),
          a(static_cast<T>(s[1])),
          c(static_cast<T>(s[2])),
          one_minus_beta_1(static_cast<T>(s[3])),
          one_minus_beta_2(static_cast<T>(s[4])),
          epsilon(static_cast<T>(s[5])) {}

    FUSEDOPT_INLINE void advance(T g, T& m, T& v) const {
        m = m + (g - m) * one_minus_beta_1;
        v = v + (g * g - v) * one_minus_beta_2;
    }

    FUSEDOPT_INLINE T direction(T m, T v) const { return (a * m) / (square_root(c * v) + epsilon); }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
