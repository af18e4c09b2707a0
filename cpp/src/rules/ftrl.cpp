// Ftrl: what state it keeps, and the scalars of its formula.
#include "kernel/rules/ftrl.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const Ftrl& rule) {
    RuleSpec spec{kernel::RuleId::Ftrl,
                  0.001,
                  {},
                  {not_negative("accumulator", 0, rule.initial_accumulator_value), {"linear", 0}}};
    if (rule.learning_rate_power != -0.5) spec.kernel = kernel::RuleId::FtrlPower;
    spec.no_float8 = "Ftrl computes a variable anew from its slots, which a code of 8 bits would move by a sixteenth";
    spec.only_lazy = "Ftrl computes a variable anew from its slots, at the learning rate of the time";
    return spec;
}

static kernel::FtrlScalars<double> scalars_of(const Ftrl& rule, const Now& now) {
    return {
        .inverse_lr = 1.0 / now.learning_rate,
        .l1 = rule.l1_regularization_strength,
        .twice_l2 = 2.0 * (rule.l2_regularization_strength + rule.beta / (2.0 * now.learning_rate)),
        .twice_shrinkage = 2.0 * rule.l2_shrinkage_regularization_strength,
        .power = -rule.learning_rate_power,
        .moves = 1.0,
    };
}

template struct Definition<Ftrl>;

}  // namespace fusedopt
