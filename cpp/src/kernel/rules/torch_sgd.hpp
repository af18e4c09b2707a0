// Gradient descent with momentum as PyTorch has it (torch/optim/sgd.py of PyTorch 2.13).
// g <- g + weight_decay w;  m <- mu m + (1 - dampening) g;  w <- w - lr d
// d = m, or Nesterov's d = g + mu m: the scalars make d = a g + b m. m begins as the first g, so then mu is 0 and
// dampening is 0. The learning rate is outside m.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct TorchSgdScalars {
    T lr, mu, one_minus_dampening, a, b, weight_decay;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct TorchSgdMomentum {
    static constexpr int slot_count = 1;
    TorchSgdScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& m) const {
        const T g = gradient + s.weight_decay * w;
        m = s.mu * m + s.one_minus_dampening * g;
        w = w - s.lr * (s.a * g + s.b * m);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
