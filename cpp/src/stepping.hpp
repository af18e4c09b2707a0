// Steps several optimizers as one: each phase is finished by all before the next begins, so all write or none does.
#pragma once

#include <span>

#include "state.hpp"

namespace fusedopt {

/// One optimizer's part in a step. `tensors` null: gradients are in the built order.
struct Share {
    Optimizer::State* state;
    std::span<const Tensor> gradients;
    const std::span<const Tensor>* tensors;
    Scaling scaling;
};

/// 1 / scale, whatever the caller's rounding mode.
double reciprocal(double scale);

/// The nearest float32, whatever the caller's rounding mode.
float nearest_float(double value);

/// False where the step was skipped because a gradient was not finite. The caller holds every lock.
bool step_together(std::span<const Share> shares);

}  // namespace fusedopt
