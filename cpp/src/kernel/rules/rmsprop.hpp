// RMSprop (Hinton, lecture 6e).  v <- rho v + (1 - rho) g^2;  s = lr g / sqrt(d)
// d = v + epsilon; centered:     a <- rho a + (1 - rho) g;    d = max(v - a^2, 0) + epsilon
// w <- w - s; with momentum:     p <- mu p + s;               w <- w - p
// Keras lets rounding make v - a^2 negative, and then the root NaN; a variance is clamped at zero here.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct RmspropScalars {
    T lr, rho, one_minus_rho, epsilon, mu;

    explicit RmspropScalars(const double* s)
        : lr(static_cast<T>(s[0])),
          rho(static_cast<T>(s[1])),
          one_minus_rho(static_cast<T>(s[2])),
          epsilon(static_cast<T>(s[3])),
          mu(static_cast<T>(s[4])) {}

    FUSEDOPT_INLINE T plain(T g, T& v) const {
        v = rho * v + one_minus_rho * (g * g);
        return (lr * g) / square_root(v + epsilon);
    }

    FUSEDOPT_INLINE T centered(T g, T& v, T& a) const {
        v = rho * v + one_minus_rho * (g * g);
        a = rho * a + one_minus_rho * g;
        return (lr * g) / square_root(not_below_zero(v - a * a) + epsilon);
    }
};

template <class T>
struct Rmsprop : RmspropScalars<T> {
    static constexpr int slot_count = 1;
    static constexpr bool has_trust_ratio = false;
    using RmspropScalars<T>::RmspropScalars;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v) const { w = w - this->plain(g, v); }
};

template <class T>
struct RmspropMomentum : RmspropScalars<T> {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = false;
    using RmspropScalars<T>::RmspropScalars;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v, T& p) const {
        p = this->mu * p + this->plain(g, v);
        w = w - p;
    }
};

template <class T>
struct RmspropCentered : RmspropScalars<T> {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = false;
    using RmspropScalars<T>::RmspropScalars;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v, T& a) const { w = w - this->centered(g, v, a); }
};

template <class T>
struct RmspropFull : RmspropScalars<T> {
    static constexpr int slot_count = 3;
    static constexpr bool has_trust_ratio = false;
    using RmspropScalars<T>::RmspropScalars;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& v, T& p, T& a) const {
        p = this->mu * p + this->centered(g, v, a);
        w = w - p;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
