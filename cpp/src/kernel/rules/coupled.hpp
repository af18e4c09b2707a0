// Formulas whose gradient takes weight decay in before anything else: g <- g + weight_decay w.
// PyTorch's optimizers do so (torch/optim of PyTorch 2.13). Without weight decay the formula itself serves.
#pragma once

#include "kernel/rules/adadelta.hpp"
#include "kernel/rules/adam.hpp"
#include "kernel/rules/nadam.hpp"
#include "kernel/rules/sgd.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// The scalars are those of the formula, then weight_decay.
template <class Formula, class T>
struct Coupled : Formula {
    T weight_decay;

    template <class... Slots>
    FUSEDOPT_INLINE void operator()(T& w, T g, Slots&... slots) const {
        Formula::operator()(w, g + weight_decay * w, slots...);
    }
};

template <class T>
struct CoupledSgd : Coupled<Sgd<T>, T> {};

template <class T>
struct CoupledAdam : Coupled<Adam<T>, T> {};

template <class T>
struct CoupledAdamAmsgrad : Coupled<AdamAmsgrad<T>, T> {};

template <class T>
struct CoupledAdadelta : Coupled<Adadelta<T>, T> {};

template <class T>
struct CoupledNadam : Coupled<Nadam<T>, T> {};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
