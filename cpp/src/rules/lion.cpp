#include "check.hpp"
#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const Lion&) {
    return {kernel::RuleId::Lion, 0.001, {}, {{"momentum", 0}}};
}

void compute_scalars(const Lion&, const Moment& moment, double* scalars) {
    const double beta_1 = moment.beta_1;
    const double beta_2 = moment.beta_2;
    require("beta_1", beta_1, domains::above_0_to_1);
    require_below_one("beta_2", beta_2);
    scalars[0] = moment.learning_rate;
    scalars[1] = beta_1;
    scalars[2] = 1.0 - beta_1;
    scalars[3] = beta_2;
    scalars[4] = 1.0 - beta_2;
}

}  // namespace fusedopt
