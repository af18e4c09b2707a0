// RMSprop in PyTorch's numbers: what state it keeps, and the scalars of its formula.
#include "kernel/rules/torch_rmsprop.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const TorchRMSprop& rule) {
    const bool has_momentum = rule.momentum > 0.0;
    RuleSpec spec{kernel::RuleId::TorchRmsprop, 0.01, {}, {not_negative("square_avg", 0)}};
    if (has_momentum) spec.slots.push_back({"momentum_buffer", 1});
    if (rule.centered) spec.slots.push_back({"grad_avg", 2});
    if (has_momentum) spec.kernel = kernel::RuleId::TorchRmspropMomentum;
    if (rule.centered) {
        spec.kernel = has_momentum ? kernel::RuleId::TorchRmspropFull : kernel::RuleId::TorchRmspropCentered;
    }
    if (rule.centered) spec.no_float8 = centered_subtracts;
    return spec;
}

static kernel::TorchRmspropScalars<double> scalars_of(const TorchRMSprop& rule, const Now& now) {
    return {
        .lr = now.learning_rate,
        .rho = rule.rho,
        .one_minus_rho = 1.0 - rule.rho,
        .epsilon = rule.epsilon,
        .mu = rule.momentum,
        .weight_decay = rule.weight_decay,
    };
}

template struct Definition<TorchRMSprop>;

}  // namespace fusedopt
