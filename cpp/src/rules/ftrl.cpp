#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const Ftrl& rule) {
    RuleSpec spec{kernel::RuleId::Ftrl, 0.001, {}, {{"accumulator", 0}, {"linear", 0}}};
    if (rule.learning_rate_power != -0.5) spec.kernel = kernel::RuleId::FtrlPower;
    spec.slots[0].initial = rule.initial_accumulator_value;
    return spec;
}

void compute_scalars(const Ftrl& rule, const Moment& moment, double* scalars) {
    scalars[0] = 1.0 / moment.learning_rate;
    scalars[1] = rule.l1_regularization_strength;
    scalars[2] = 2.0 * (rule.l2_regularization_strength + rule.beta / (2.0 * moment.learning_rate));
    scalars[3] = 2.0 * rule.l2_shrinkage_regularization_strength;
    scalars[4] = -rule.learning_rate_power;
}

}  // namespace fusedopt
