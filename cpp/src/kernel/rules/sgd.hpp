// Gradient descent.  w <- w - lr g
// with momentum:     m <- mu m - lr g;  w <- w + m
// with Nesterov's:   m <- mu m - lr g;  w <- w + mu m - lr g
// The learning rate is inside m, as in Keras (Sutskever et al. 2013, eq. 1-4).
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Sgd {
    static constexpr int slot_count = 0;
    static constexpr bool has_trust_ratio = false;
    T lr;

    explicit Sgd(const double* s) : lr(static_cast<T>(s[0])) {}

    FUSEDOPT_INLINE void operator()(T& w, T g) const { w = w - lr * g; }
};

template <class T>
struct SgdMomentum {
    static constexpr int slot_count = 1;
    static constexpr bool has_trust_ratio = false;
    T lr, mu;

    explicit SgdMomentum(const double* s) : lr(static_cast<T>(s[0])), mu(static_cast<T>(s[1])) {}

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m) const {
        m = mu * m - lr * g;
        w = w + m;
    }
};

template <class T>
struct SgdNesterov {
    static constexpr int slot_count = 1;
    static constexpr bool has_trust_ratio = false;
    T lr, mu;

    explicit SgdNesterov(const double* s) : lr(static_cast<T>(s[0])), mu(static_cast<T>(s[1])) {}

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m) const {
        const T step = lr * g;
        m = mu * m - step;
        w = w + (mu * m - step);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
