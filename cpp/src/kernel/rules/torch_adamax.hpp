// Adamax as PyTorch has it (torch/optim/adamax.py of PyTorch 2.13).
// g <- g + weight_decay w;  m <- m + (g - m)(1 - beta_1);  u <- max(beta_2 u, |g| + epsilon)
// w <- w - alpha m / u,  alpha = lr / (1 - beta_1^t)
#pragma once

#include "kernel/math.hpp"

namespace fusedopt::kernel {

template <class T>
struct TorchAdamaxScalars {
    T alpha, one_minus_beta_1, beta_2, epsilon, weight_decay;
};

}  // namespace fusedopt::kernel

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct TorchAdamax {
    static constexpr int slot_count = 2;
    TorchAdamaxScalars<T> s;

    FUSEDOPT_INLINE void operator()(T& w, T gradient, T& m, T& u) const {
        const T g = with_decay(s.weight_decay, w, gradient);
        m = m + (g - m) * s.one_minus_beta_1;
        u = maximum(s.beta_2 * u, absolute(g) + s.epsilon);
        w = w - (s.alpha * m) / u;
    }
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
