// Adam and AdamW in PyTorch's numbers: what state they keep, and the scalars of their formula, which is Adam's.
// PyTorch adds epsilon to sqrt(v) / sqrt(1 - beta_2^t). With both multiplied by that root, epsilon moves with t.
// Source: torch/optim/adam.py of PyTorch 2.13.
#include <cmath>

#include "kernel/rules/adam.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"

namespace fusedopt {
namespace {

RuleSpec specify_torch_adam(bool amsgrad, bool is_coupled, std::optional<double> weight_decay) {
    RuleSpec spec{is_coupled ? kernel::RuleId::CoupledAdam : kernel::RuleId::Adam,
                  0.001,
                  weight_decay,
                  {{"exp_avg", 0}, not_negative("exp_avg_sq", 0)}};
    if (amsgrad) {
        spec.kernel = is_coupled ? kernel::RuleId::CoupledAdamAmsgrad : kernel::RuleId::AdamAmsgrad;
        spec.slots.push_back(not_negative("max_exp_avg_sq", 1));
    }
    return spec;
}

template <class AdamLike>
kernel::AdamScalars<double> torch_adam_scalars_of(const AdamLike& rule, const Now& now) {
    require_betas(now);
    const double t = static_cast<double>(now.t);
    const double root = std::sqrt(1.0 - std::pow(now.beta_2, t));
    return {
        .alpha = now.learning_rate * root / (1.0 - std::pow(now.beta_1, t)),
        .one_minus_beta_1 = 1.0 - now.beta_1,
        .one_minus_beta_2 = 1.0 - now.beta_2,
        .epsilon = rule.epsilon * root,
    };
}

}  // namespace

static RuleSpec specify(const TorchAdam& rule) {
    if (rule.decoupled_weight_decay) return specify_torch_adam(rule.amsgrad, false, rule.weight_decay);
    return specify_torch_adam(rule.amsgrad, rule.weight_decay != 0.0, {});
}

static RuleSpec specify(const TorchAdamW& rule) {
    return specify_torch_adam(rule.amsgrad, false, rule.weight_decay);
}

static kernel::Scalars scalars_of(const TorchAdam& rule, const Now& now, std::size_t) {
    return pack_coupled(torch_adam_scalars_of(rule, now), rule.weight_decay);
}

static kernel::AdamScalars<double> scalars_of(const TorchAdamW& rule, const Now& now) {
    return torch_adam_scalars_of(rule, now);
}

static kernel::Guard guard_of(const TorchAdam&, const Now& now) {
    return adam_guard(now);
}

static kernel::Guard guard_of(const TorchAdamW&, const Now& now) {
    return adam_guard(now);
}

template struct Definition<TorchAdam>;
template struct Definition<TorchAdamW>;

}  // namespace fusedopt
