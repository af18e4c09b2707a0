// Adagrad (Duchi et al. 2011).  a <- a + g^2;  w <- w - lr g / sqrt(a + epsilon)
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct AdagradScalars {
    T lr, epsilon;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Adagrad {
    static constexpr int slot_count = 1, row_slot = 0, row_slots = 1;
    AdagradScalars<T> s;

    FUSEDOPT_INLINE void second_moment(T square, T& a) const { a = a + square; }

    FUSEDOPT_INLINE void move(T& w, T g, T a) const { w = w - (s.lr * g) / square_root(a + s.epsilon); }

    FUSEDOPT_INLINE void operator()(T& w, T g, T& a) const {
        second_moment(g * g, a);
        move(w, g, a);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
