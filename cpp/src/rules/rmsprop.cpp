// RMSprop: what state it keeps, and the scalars of its formula.
#include <stdexcept>

#include "kernel/rules/rmsprop.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const RMSprop& rule) {
    if (rule.centered && rule.rowwise) {
        throw std::invalid_argument(
            "centered, rowwise: expected at most one of them, found both; the centered form needs a second moment for "
            "each element");
    }
    const bool has_momentum = rule.momentum > 0.0;
    RuleSpec spec{kernel::RuleId::Rmsprop, 0.001, {}, {not_negative("velocity", 0)}};
    if (has_momentum) spec.slots.push_back({"momentum", 1});
    if (rule.centered) spec.slots.push_back({"average_gradient", 2});
    if (has_momentum) spec.kernel = kernel::RuleId::RmspropMomentum;
    if (has_momentum) spec.mover = {1};
    if (rule.centered) spec.kernel = has_momentum ? kernel::RuleId::RmspropFull : kernel::RuleId::RmspropCentered;
    if (rule.centered) spec.no_float8 = centered_subtracts;
    return spec;
}

static RuleSpec specify_rowwise(const RMSprop& rule) {
    const bool has_momentum = rule.momentum > 0.0;
    return rowwise(specify(rule),
                   has_momentum ? kernel::RuleId::RowwiseRmspropMomentum : kernel::RuleId::RowwiseRmsprop, {0});
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

static kernel::Missed missed_of(const RMSprop& rule, const kernel::RmspropScalars<double>& s) {
    if (rule.momentum > 0.0) return {1.0, -s.mu, {s.rho, s.mu, rule.centered ? s.rho : 1.0}, 1.0, 0};
    return {1.0, 0.0, {s.rho, rule.centered ? s.rho : 1.0, 1.0}, 1.0, 0};
}

template struct Definition<RMSprop>;

}  // namespace fusedopt
