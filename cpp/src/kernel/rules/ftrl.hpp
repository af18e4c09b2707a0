// Ftrl-proximal (McMahan et al. 2013), with p = -learning_rate_power, s = l2_shrinkage, l2' = l2 + beta / (2 lr).
// n' = n + g^2;  z <- z + (g + 2 s w) - (n'^p - n^p) / lr w;  n <- n'
// w <- (clip(z, -l1, l1) - z) / (n'^p / lr + 2 l2')
// Where the denominator is zero (no gradient yet, no initial accumulator) Keras divides 0 by 0; w stays as it is here.
// At a rate of 0, whose inverse is infinite, Keras gives NaN. Here it makes all scalars 0, the factor on g too: n and z
// stay, the denominator is zero, and so w stays. A NaN or infinite g still shows, as 0 times it is NaN.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct FtrlScalars {
    T inverse_lr, l1, twice_l2, twice_shrinkage, power, moves;

    explicit FtrlScalars(const double* s) : FtrlScalars(s, s[0] <= Limits<T>::largest) {}

    FtrlScalars(const double* s, bool has_rate)
        : inverse_lr(static_cast<T>(has_rate ? s[0] : 0.0)),
          l1(static_cast<T>(s[1])),
          twice_l2(static_cast<T>(has_rate ? s[2] : 0.0)),
          twice_shrinkage(static_cast<T>(has_rate ? s[3] : 0.0)),
          power(static_cast<T>(s[4])),
          moves(has_rate) {}

    FUSEDOPT_INLINE void step(T& w, T g, T& n, T& z, T new_n, T old_root, T new_root) const {
        z = z + ((g + twice_shrinkage * w) - ((new_root - old_root) * inverse_lr) * w);
        const T denominator = new_root * inverse_lr + twice_l2;
        const T proximal = (larger(-l1, smaller(l1, z)) - z) / denominator;
        w = denominator == 0 ? w : proximal;
        n = new_n;
    }
};

template <class T>
struct Ftrl : FtrlScalars<T> {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = false;
    using FtrlScalars<T>::FtrlScalars;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& n, T& z) const {
        const T g = this->moves * gradient;
        const T new_n = n + g * g;
        this->step(w, g, n, z, new_n, square_root(n), square_root(new_n));
    }
};

// Any other power. pow is the C library's: not vectorised, and its last bit may differ between systems.
template <class T>
struct FtrlPower : FtrlScalars<T> {
    static constexpr int slot_count = 2;
    static constexpr bool has_trust_ratio = false;
    using FtrlScalars<T>::FtrlScalars;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& n, T& z) const {
        const T g = this->moves * gradient;
        const T new_n = n + g * g;
        this->step(w, g, n, z, new_n, raise(n, this->power), raise(new_n, this->power));
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
