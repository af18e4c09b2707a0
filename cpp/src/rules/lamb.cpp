#include <cmath>

#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const Lamb&) {
    return {kernel::RuleId::Lamb, 0.001, {}, {{"momentum", 0}, {"velocity", 0}}};
}

void compute_scalars(const Lamb& rule, const Moment& moment, double* scalars) {
    require_betas(moment);
    const double beta_1 = moment.beta_1, beta_2 = moment.beta_2;
    const double t = static_cast<double>(moment.t);
    scalars[0] = moment.learning_rate;
    scalars[1] = 1.0 / (1.0 - std::pow(beta_1, t));
    scalars[2] = 1.0 / (1.0 - std::pow(beta_2, t));
    scalars[3] = 1.0 - beta_1;
    scalars[4] = 1.0 - beta_2;
    scalars[5] = rule.epsilon;
}

}  // namespace fusedopt
