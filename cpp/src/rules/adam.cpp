#include <cmath>

#include "rule.hpp"

namespace fusedopt {
namespace {

template <class AdamLike>
RuleSpec specify_adam(const AdamLike& rule, std::optional<double> weight_decay) {
    RuleSpec spec{kernel::RuleId::Adam, 0.001, weight_decay, {{"momentum", 0}, {"velocity", 0}}};
    if (rule.amsgrad) {
        spec.kernel = kernel::RuleId::AdamAmsgrad;
        spec.slots.push_back({"velocity_hat", 1});
    }
    return spec;
}

template <class AdamLike>
void compute_adam_scalars(const AdamLike& rule, const Moment& moment, double* scalars) {
    require_betas(moment);
    const double beta_1 = moment.beta_1, beta_2 = moment.beta_2;
    const double t = static_cast<double>(moment.t);
    scalars[0] = moment.learning_rate * std::sqrt(1.0 - std::pow(beta_2, t)) / (1.0 - std::pow(beta_1, t));
    scalars[1] = 1.0 - beta_1;
    scalars[2] = 1.0 - beta_2;
    scalars[3] = rule.epsilon;
}

}  // namespace

RuleSpec specify(const Adam& rule) {
    return specify_adam(rule, {});
}

RuleSpec specify(const AdamW& rule) {
    return specify_adam(rule, rule.weight_decay);
}

void compute_scalars(const Adam& rule, const Moment& moment, double* scalars) {
    compute_adam_scalars(rule, moment, scalars);
}

void compute_scalars(const AdamW& rule, const Moment& moment, double* scalars) {
    compute_adam_scalars(rule, moment, scalars);
}

}  // namespace fusedopt
