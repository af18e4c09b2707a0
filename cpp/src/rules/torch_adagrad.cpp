// Adagrad in PyTorch's numbers: what state it keeps, and the scalars of its formula.
#include "kernel/rules/torch_adagrad.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const TorchAdagrad& rule) {
    return {kernel::RuleId::TorchAdagrad, 0.01, {}, {not_negative("sum", 0, rule.initial_accumulator_value)}};
}

static kernel::TorchAdagradScalars<double> scalars_of(const TorchAdagrad& rule, const Now& now) {
    return {
        .alpha = now.learning_rate / (1.0 + static_cast<double>(now.t - 1) * rule.lr_decay),
        .epsilon = rule.epsilon,
        .weight_decay = rule.weight_decay,
    };
}

template struct Definition<TorchAdagrad>;

}  // namespace fusedopt
