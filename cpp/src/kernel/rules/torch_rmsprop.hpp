// RMSprop as PyTorch has it (torch/optim/rmsprop.py of PyTorch 2.13).
// g <- g + weight_decay w;  v <- rho v + (1 - rho) g^2;  d = sqrt(v) + epsilon
// centered:      a <- a + (g - a)(1 - rho);  d = sqrt(max(v - a^2, 0)) + epsilon
// w <- w - lr g / d; with momentum:  p <- mu p + g / d;  w <- w - lr p
// PyTorch lets rounding make v - a^2 negative, and then the root NaN; a variance is clamped at zero here.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct TorchRmspropScalars {
    T lr, rho, one_minus_rho, epsilon, mu, weight_decay;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct TorchRmspropParts {
    TorchRmspropScalars<T> s;

    FUSEDOPT_INLINE T decayed(T w, T g) const { return with_decay(s.weight_decay, w, g); }

    FUSEDOPT_INLINE T plain(T g, T& v) const {
        v = s.rho * v + s.one_minus_rho * (g * g);
        return square_root(v) + s.epsilon;
    }

    FUSEDOPT_INLINE T centered(T g, T& v, T& a) const {
        v = s.rho * v + s.one_minus_rho * (g * g);
        a = a + (g - a) * s.one_minus_rho;
        return square_root(not_below_zero(v - a * a)) + s.epsilon;
    }

    FUSEDOPT_INLINE void move(T& w, T g, T d) const { w = w - (s.lr * g) / d; }

    FUSEDOPT_INLINE void move(T& w, T g, T d, T& p) const {
        p = s.mu * p + g / d;
        w = w - s.lr * p;
    }
};

template <class T>
struct TorchRmsprop : TorchRmspropParts<T> {
    static constexpr int slot_count = 1;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& v) const {
        const T g = this->decayed(w, gradient);
        this->move(w, g, this->plain(g, v));
    }
};

template <class T>
struct TorchRmspropMomentum : TorchRmspropParts<T> {
    static constexpr int slot_count = 2;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& v, T& p) const {
        const T g = this->decayed(w, gradient);
        this->move(w, g, this->plain(g, v), p);
    }
};

template <class T>
struct TorchRmspropCentered : TorchRmspropParts<T> {
    static constexpr int slot_count = 2;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& v, T& a) const {
        const T g = this->decayed(w, gradient);
        this->move(w, g, this->centered(g, v, a));
    }
};

template <class T>
struct TorchRmspropFull : TorchRmspropParts<T> {
    static constexpr int slot_count = 3;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& v, T& p, T& a) const {
        const T g = this->decayed(w, gradient);
        this->move(w, g, this->centered(g, v, a), p);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
