// Adadelta (Zeiler 2012).  e <- rho e + (1 - rho) g^2;  d = sqrt((x + epsilon) / (e + epsilon)) g
// x <- rho x + (1 - rho) d^2;  w <- w - lr d
// The quotient of the paper's two roots is one root here: a division and a root instead of a division and two.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Adadelta {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = false;
    T lr, rho, one_minus_rho, epsilon;

    explicit Adadelta(const double* s)
        : lr(static_cast<T>(s[0])),
          rho(static_cast<T>(s[1])),
          one_minus_rho(static_cast<T>(s[2])),
          epsilon(static_cast<T>(s[3])) {}

    FUSEDOPT_INLINE void operator()(T& w, T g, T& e, T& x) const {
        e = rho * e + one_minus_rho * (g * g);
        const T d = square_root((x + epsilon) / (e + epsilon)) * g;
        x = rho * x + one_minus_rho * (d * d);
        w = w - lr * d;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
