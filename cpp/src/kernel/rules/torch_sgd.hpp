// Gradient descent with momentum as PyTorch has it (torch/optim/sgd.py of PyTorch 2.13).
// g <- g + weight_decay w;  m <- keep m + (1 - dampening) g;  w <- w - lr d
// d = m, or Nesterov's d = g + mu m. m begins as the first g, so then `keep` and dampening are 0, and else `keep` is
// mu. The learning rate is outside m.
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct TorchSgdScalars {
    T lr, keep, one_minus_dampening, mu, nesterov, weight_decay;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct TorchSgdMomentum {
    static constexpr int slot_count = 1;
    TorchSgdScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& m) const {
        const T g = with_decay(s.weight_decay, w, gradient);
        m = s.keep * m + s.one_minus_dampening * g;
        w = w - s.lr * (s.nesterov != 0 ? g + s.mu * m : m);
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
