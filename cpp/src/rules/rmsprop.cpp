#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const RMSprop& rule) {
    const bool has_momentum = rule.momentum > 0.0;
    RuleSpec spec{kernel::RuleId::Rmsprop, 0.001, {}, {{"velocity", 0}}};
    if (has_momentum) spec.slots.push_back({"momentum", 1});
    if (rule.centered) spec.slots.push_back({"average_gradient", 2});
    if (has_momentum) spec.kernel = kernel::RuleId::RmspropMomentum;
    if (rule.centered) spec.kernel = has_momentum ? kernel::RuleId::RmspropFull : kernel::RuleId::RmspropCentered;
    return spec;
}

void compute_scalars(const RMSprop& rule, const Moment& moment, double* scalars) {
    scalars[0] = moment.learning_rate;
    scalars[1] = rule.rho;
    scalars[2] = 1.0 - rule.rho;
    scalars[3] = rule.epsilon;
    scalars[4] = rule.momentum;
}

}  // namespace fusedopt
