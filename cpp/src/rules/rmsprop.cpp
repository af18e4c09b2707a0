// RMSprop: which hyperparameters it takes, what state it keeps, and the scalars of its formula.
#include "kernel/rules/rmsprop.hpp"
#include "check.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const RMSprop& rule) {
    require_below_one("rho", rule.rho);
    require_at_most_one("momentum", rule.momentum);
    require_epsilon(rule.epsilon);
    const bool has_momentum = rule.momentum > 0.0;
    RuleSpec spec{kernel::RuleId::Rmsprop, 0.001, {}, {{"velocity", 0}}};
    if (has_momentum) spec.slots.push_back({"momentum", 1});
    if (rule.centered) spec.slots.push_back({"average_gradient", 2});
    if (has_momentum) spec.kernel = kernel::RuleId::RmspropMomentum;
    if (rule.centered) spec.kernel = has_momentum ? kernel::RuleId::RmspropFull : kernel::RuleId::RmspropCentered;
    return spec;
}

static kernel::RmspropScalars<double> scalars_of(const RMSprop& rule, const Now& now) {
    return {
        .lr = now.learning_rate,
        .rho = rule.rho,
        .one_minus_rho = 1.0 - rule.rho,
        .epsilon = rule.epsilon,
        .mu = rule.momentum,
    };
}

template struct Definition<RMSprop>;

}  // namespace fusedopt
