#include <algorithm>
#include <cmath>

#include "check.hpp"
#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const ScheduleFreeAdamW&) {
    RuleSpec spec{kernel::RuleId::ScheduleFreeAdamW, 0.0025, {}, {{"momentum", 0}, {"velocity", 0}}};
    spec.slots[0].copies_variable = true;
    spec.interpolates = true;
    return spec;
}

void compute_scalars(const ScheduleFreeAdamW& rule, const Moment& moment, double* scalars) {
    const double beta_1 = moment.beta_1;
    const double beta_2 = moment.beta_2;
    require("beta_1", beta_1, domains::above_0_below_1);  // the rule divides by it
    require_below_one("beta_2", beta_2);
    const double t = static_cast<double>(moment.t);
    const double warmup = rule.warmup_steps > 0 ? std::min(t / static_cast<double>(rule.warmup_steps), 1.0) : 1.0;
    scalars[0] = moment.learning_rate * warmup;
    scalars[1] = 1.0 / (1.0 - std::pow(beta_2, t));
    scalars[2] = rule.epsilon;
    scalars[3] = beta_1;
    scalars[4] = 1.0 - beta_1;
    scalars[5] = 1.0 / beta_1;
    scalars[6] = 1.0 - beta_2;
    scalars[7] = 1.0 / t;
    scalars[8] = 1.0 - 1.0 / t;
}

}  // namespace fusedopt
