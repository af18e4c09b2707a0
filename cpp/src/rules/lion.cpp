#include "check.hpp"
#include "rule.hpp"

namespace fusedopt {

namespace {

void require_beta_1(double value) {
    if (!(value > 0.0 && value <= 1.0)) refuse("beta_1", "a number in (0, 1]", value);
}

}  // namespace

RuleSpec specify(const Lion& rule) {
    if (rule.beta_1.is_number()) require_beta_1(rule.beta_1.value());
    if (rule.beta_2.is_number()) require_below_one("beta_2", rule.beta_2.value());
    return {kernel::RuleId::Lion, 0.001, {}, {{"momentum", 0}}};
}

void compute_scalars(const Lion&, const Moment& moment, double* scalars) {
    const double beta_1 = moment.beta_1;
    const double beta_2 = moment.beta_2;
    require_beta_1(beta_1);
    require_below_one("beta_2", beta_2);
    scalars[0] = moment.learning_rate;
    scalars[1] = beta_1;
    scalars[2] = 1.0 - beta_1;
    scalars[3] = beta_2;
    scalars[4] = 1.0 - beta_2;
}

}  // namespace fusedopt
