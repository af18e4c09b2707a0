// Adamax in PyTorch's numbers: what state it keeps, and the scalars of its formula.
#include <cmath>

#include "kernel/rules/torch_adamax.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"

namespace fusedopt {

static RuleSpec specify(const TorchAdamax&) {
    return {kernel::RuleId::TorchAdamax, 0.002, {}, {{"exp_avg", 0}, not_negative("exp_inf", 0)}};
}

static kernel::TorchAdamaxScalars<double> scalars_of(const TorchAdamax& rule, const Now& now) {
    require_betas(now);
    return {
        .alpha = now.learning_rate / (1.0 - std::pow(now.beta_1, static_cast<double>(now.t))),
        .one_minus_beta_1 = 1.0 - now.beta_1,
        .beta_2 = now.beta_2,
        .epsilon = rule.epsilon,
        .weight_decay = rule.weight_decay,
    };
}

static kernel::Guard guard_of(const TorchAdamax&, const Now& now) {
    return adamax_guard(now);
}

template struct Definition<TorchAdamax>;

}  // namespace fusedopt
