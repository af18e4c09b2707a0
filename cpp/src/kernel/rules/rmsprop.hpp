// RMSprop (Hinton, lecture 6e).  v <- rho v + (1 - rho) g^2;  q = lr g / sqrt(d)
// d = v + epsilon; centered:     a <- rho a + (1 - rho) g;    d = max(v - a^2, 0) + epsilon
// w <- w - q; with momentum:     p <- mu p + q;               w <- w - p
// Keras lets rounding make v - a^2 negative, and then the root NaN; a variance is clamped at zero here.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct RmspropScalars {
    T lr, rho, one_minus_rho, epsilon, mu;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct RmspropQuotients {
    RmspropScalars<T> s;

    FUSEDOPT_INLINE void second_moment(T square, T& v) const { v = s.rho * v + s.one_minus_rho * square; }

    FUSEDOPT_INLINE T quotient(T g, T d) const { return (s.lr * g) / square_root(d + s.epsilon); }

    FUSEDOPT_INLINE T centered(T g, T& v, T& a) const {
        second_moment(g * g, v);
        a = s.rho * a + s.one_minus_rho * g;
        return quotient(g, not_below_zero(v - a * a));
    }
};

template <class T>
struct Rmsprop : RmspropQuotients<T> {
    static constexpr int slot_count = 1, row_slot = 0, row_slots = 1;

    FUSEDOPT_INLINE void move(T& w, T g, T v) const { w = w - this->quotient(g, v); }

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v) const {
        this->second_moment(g * g, v);
        move(w, g, v);
    }
};

template <class T>
struct RmspropMomentum : RmspropQuotients<T> {
    static constexpr int slot_count = 2, row_slot = 0, row_slots = 1;

    FUSEDOPT_INLINE void move(T& w, T g, T& p, T v) const {
        p = this->s.mu * p + this->quotient(g, v);
        w = w - p;
    }

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v, T& p) const {
        this->second_moment(g * g, v);
        move(w, g, p, v);
    }
};

template <class T>
struct RmspropCentered : RmspropQuotients<T> {
    static constexpr int slot_count = 2;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v, T& a) const { w = w - this->centered(g, v, a); }
};

template <class T>
struct RmspropFull : RmspropQuotients<T> {
    static constexpr int slot_count = 3;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v, T& p, T& a) const {
        p = this->s.mu * p + this->centered(g, v, a);
        w = w - p;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
