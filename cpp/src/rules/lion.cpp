// Lion: what state it keeps, and the scalars of its formula.
#include "kernel/rules/lion.hpp"
#include "engine/check.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const Lion&) {
    RuleSpec spec{kernel::RuleId::Lion, 0.001, {}, {{"momentum", 0}}};
    spec.mover = {0, true};
    return spec;
}

static kernel::LionScalars<double> scalars_of(const Lion&, const Now& now) {
    const double beta_1 = now.beta_1;
    const double beta_2 = now.beta_2;
    require("beta_1", beta_1, domains::above_0_to_1);
    require_below_one("beta_2", beta_2);
    return {
        .lr = now.learning_rate,
        .beta_1 = beta_1,
        .one_minus_beta_1 = 1.0 - beta_1,
        .beta_2 = beta_2,
        .one_minus_beta_2 = 1.0 - beta_2,
    };
}

static kernel::Missed missed_of(const Lion&, const kernel::LionScalars<double>& s) {
    return {1.0, -s.lr, {s.beta_2, 1.0, 1.0}, s.beta_1, 0};
}

template struct Definition<Lion>;

}  // namespace fusedopt
