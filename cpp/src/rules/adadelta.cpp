// Adadelta: what state it keeps, and the scalars of its formula.
#include "kernel/rules/adadelta.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const Adadelta&) {
    RuleSpec spec{kernel::RuleId::Adadelta,
                  0.001,
                  {},
                  {not_negative("accumulated_grad", 0), not_negative("accumulated_delta_var", 0)}};
    spec.no_float8 = adadelta_feeds_back;
    return spec;
}

static kernel::AdadeltaScalars<double> scalars_of(const Adadelta& rule, const Now& now) {
    return {
        .lr = now.learning_rate,
        .rho = rule.rho,
        .one_minus_rho = 1.0 - rule.rho,
        .epsilon = rule.epsilon,
    };
}

static kernel::Missed missed_of(const Adadelta&, const kernel::AdadeltaScalars<double>& s) {
    return {1.0, 0.0, {s.rho, s.rho, 1.0}, 1.0, 0};
}

template struct Definition<Adadelta>;

}  // namespace fusedopt
