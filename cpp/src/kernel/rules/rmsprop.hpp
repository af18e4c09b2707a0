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

    FUSEDOPT_INLINE T plain(T g, T& v) const {
        v = s.rho * v + s.one_minus_rho * (g * g);
        return (s.lr * g) / square_root(v + s.epsilon);
    }

    FUSEDOPT_INLINE T centered(T g, T& v, T& a) const {
        v = s.rho * v + s.one_minus_rho * (g * g);
        a = s.rho * a + s.one_minus_rho * g;
        return (s.lr * g) / square_root(not_below_zero(v - a * a) + s.epsilon);
    }
};

template <class T>
struct Rmsprop : RmspropQuotients<T> {
    static constexpr int slot_count = 1;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v) const { w = w - this->plain(g, v); }
};

template <class T>
struct RmspropMomentum : RmspropQuotients<T> {
    static constexpr int slot_count = 2;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v, T& p) const {
        p = this->s.mu * p + this->plain(g, v);
        w = w - p;
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
