// Gradient descent.  w <- w - lr g
// with momentum:     m <- mu m - lr g;  w <- w + m
// with Nesterov's:   m <- mu m - lr g;  w <- w + mu m - lr g
// The learning rate is inside m, as in Keras (Sutskever et al. 2013, eq. 1-4).
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct SgdScalars {
    T lr, mu;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Sgd {
    static constexpr int slot_count = 0;
    SgdScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T g) const { w = w - s.lr * g; }
};

template <class T>
struct SgdMomentum {
    static constexpr int slot_count = 1;
    SgdScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m) const {
        m = s.mu * m - s.lr * g;
        w = w + m;
    }
};

template <class T>
struct SgdNesterov {
    static constexpr int slot_count = 1;
    SgdScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& m) const {
        const T descent = s.lr * g;
        m = s.mu * m - descent;
        w = w + (s.mu * m - descent);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
