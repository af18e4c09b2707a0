// Adam and AdamW: what state they keep, and the scalars of their formula.
#include <cmath>

#include "kernel/rules/adam.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"

namespace fusedopt {
namespace {

template <class AdamLike>
RuleSpec specify_adam(const AdamLike& rule, std::optional<double> weight_decay) {
    RuleSpec spec{kernel::RuleId::Adam, 0.001, weight_decay, {{"momentum", 0}, not_negative("velocity", 0)}};
    if (rule.amsgrad) {
        spec.kernel = kernel::RuleId::AdamAmsgrad;
        spec.slots.push_back(not_negative("velocity_hat", 1));
    }
    return spec;
}

template <class AdamLike>
RuleSpec specify_rowwise_adam(const AdamLike& rule, const RuleSpec& spec) {
    if (rule.amsgrad) return rowwise(spec, kernel::RuleId::RowwiseAdamAmsgrad, {1, 2});
    return rowwise(spec, kernel::RuleId::RowwiseAdam, {1});
}

template <class AdamLike>
kernel::AdamScalars<double> adam_scalars_of(const AdamLike& rule, const Now& now) {
    require_betas(now);
    const double beta_1 = now.beta_1, beta_2 = now.beta_2;
    const double t = static_cast<double>(now.t);
    return {
        .alpha = now.learning_rate * std::sqrt(1.0 - std::pow(beta_2, t)) / (1.0 - std::pow(beta_1, t)),
        .one_minus_beta_1 = 1.0 - beta_1,
        .one_minus_beta_2 = 1.0 - beta_2,
        .epsilon = rule.epsilon,
    };
}

// The moves that follow from momentum are lost: velocity is in a root there, so that they have no closed form.
kernel::Missed adam_missed_of(const kernel::AdamScalars<double>& s) {
    return {1.0, 0.0, {1.0 - s.one_minus_beta_1, 1.0 - s.one_minus_beta_2, 1.0}, 1.0, 0};
}

}  // namespace

static RuleSpec specify(const Adam& rule) {
    return specify_adam(rule, {});
}

static RuleSpec specify(const AdamW& rule) {
    return specify_adam(rule, rule.weight_decay);
}

static RuleSpec specify_rowwise(const Adam& rule) {
    return specify_rowwise_adam(rule, specify(rule));
}

static RuleSpec specify_rowwise(const AdamW& rule) {
    return specify_rowwise_adam(rule, specify(rule));
}

static kernel::AdamScalars<double> scalars_of(const Adam& rule, const Now& now) {
    return adam_scalars_of(rule, now);
}

static kernel::AdamScalars<double> scalars_of(const AdamW& rule, const Now& now) {
    return adam_scalars_of(rule, now);
}

static kernel::Guard guard_of(const Adam&, const Now& now) {
    return adam_guard(now);
}

static kernel::Guard guard_of(const AdamW&, const Now& now) {
    return adam_guard(now);
}

static kernel::Missed missed_of(const Adam&, const kernel::AdamScalars<double>& s) {
    return adam_missed_of(s);
}

static kernel::Missed missed_of(const AdamW&, const kernel::AdamScalars<double>& s) {
    return adam_missed_of(s);
}

template struct Definition<Adam>;
template struct Definition<AdamW>;

}  // namespace fusedopt
