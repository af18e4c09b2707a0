// Adagrad as PyTorch has it (torch/optim/adagrad.py of PyTorch 2.13).
// g <- g + weight_decay w;  a <- a + g^2;  w <- w - alpha g / (sqrt(a) + epsilon),  alpha = lr / (1 + (t - 1) lr_decay)
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct TorchAdagradScalars {
    T alpha, epsilon, weight_decay;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct TorchAdagrad {
    static constexpr int slot_count = 1;
    TorchAdagradScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& a) const {
        const T g = with_decay(s.weight_decay, w, gradient);
        a = a + g * g;
        w = w - (s.alpha * g) / (square_root(a) + s.epsilon);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
