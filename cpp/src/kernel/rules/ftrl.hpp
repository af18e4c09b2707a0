// Ftrl-proximal (McMahan et al. 2013), with p = -learning_rate_power, s = l2_shrinkage, l2' = l2 + beta / (2 lr).
// n' = n + g^2;  z <- z + (g + 2 s w) - (n'^p - n^p) / lr w;  n <- n'
// w <- (clip(z, -l1, l1) - z) / (n'^p / lr + 2 l2')
// Where the denominator is zero (no gradient yet, no initial accumulator) Keras divides 0 by 0; w stays as it is here.
// At a rate of 0, whose inverse is infinite, Keras gives NaN. Here it makes the factors 0, that on g too: n and z stay,
// the denominator is zero, and so w stays. A NaN or infinite g still shows, as 0 times it is NaN.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct FtrlScalars {
    T inverse_lr, l1, twice_l2, twice_shrinkage, power, moves;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct FtrlProximal {
    FtrlScalars<T> s;

    FUSEDOPT_INLINE void adjust() {
        if (s.inverse_lr <= static_cast<T>(Limits<T>::largest)) return;
        s.inverse_lr = s.twice_l2 = s.twice_shrinkage = s.moves = 0;
    }

    FUSEDOPT_INLINE void update(T& w, T g, T& n, T& z, T new_n, T old_root, T new_root) const {
        z = z + ((g + s.twice_shrinkage * w) - ((new_root - old_root) * s.inverse_lr) * w);
        const T denominator = new_root * s.inverse_lr + s.twice_l2;
        const T proximal = (larger(-s.l1, smaller(s.l1, z)) - z) / denominator;
        w = denominator == 0 ? w : proximal;
        n = new_n;
    }
};

template <class T>
struct Ftrl : FtrlProximal<T> {
    static constexpr int slot_count = 2;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& n, T& z) const {
        const T g = this->s.moves * gradient;
        const T new_n = n + g * g;
        this->update(w, g, n, z, new_n, square_root(n), square_root(new_n));
    }
};

// Any other power. pow is the C library's: not vectorised, and its last bit may differ between systems.
template <class T>
struct FtrlPower : FtrlProximal<T> {
    static constexpr int slot_count = 2;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& n, T& z) const {
        const T g = this->s.moves * gradient;
        const T new_n = n + g * g;
        this->update(w, g, n, z, new_n, raise(n, this->s.power), raise(new_n, this->s.power));
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
