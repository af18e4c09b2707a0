#include <algorithm>
#include <cmath>

#include "check.hpp"
#include "rule.hpp"

namespace fusedopt {

namespace {

// The rule divides by beta_1.
void require_beta_1(double value) {
    if (!(value > 0.0 && value < 1.0)) refuse("beta_1", "a number in (0, 1)", value);
}

}  // namespace

RuleSpec specify(const ScheduleFreeAdamW& rule) {
    if (rule.beta_1.is_number()) require_beta_1(rule.beta_1.value());
    if (rule.beta_2.is_number()) require_below_one("beta_2", rule.beta_2.value());
    require_epsilon(rule.epsilon);
    require_count("warmup_steps", rule.warmup_steps, 0);
    RuleSpec spec{kernel::RuleId::ScheduleFreeAdamW, 0.0025, {}, {{"momentum", 0}, {"velocity", 0}}};
    spec.slots[0].copies_variable = true;
    spec.interpolates = true;
    return spec;
}

void compute_scalars(const ScheduleFreeAdamW& rule, const Moment& moment, double* scalars) {
    const double beta_1 = moment.beta_1;
    const double beta_2 = moment.beta_2;
    require_beta_1(beta_1);
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
