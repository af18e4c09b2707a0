// Adadelta (Zeiler 2012).  e <- rho e + (1 - rho) g^2;  d = sqrt((x + epsilon) / (e + epsilon)) g
// x <- rho x + (1 - rho) d^2;  w <- w - lr d
// The quotient of the paper's two roots is one root here: a division and a root instead of a division and two.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct AdadeltaScalars {
    T lr, rho, one_minus_rho, epsilon;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Adadelta {
    static constexpr int slot_count = 2;
    AdadeltaScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T g, T& e, T& x) const {
        e = s.rho * e + s.one_minus_rho * (g * g);
        const T d = square_root((x + s.epsilon) / (e + s.epsilon)) * g;
        x = s.rho * x + s.one_minus_rho * (d * d);
        w = w - s.lr * d;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
