#include <cmath>

#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const Adamax&) {
    return {kernel::RuleId::Adamax, 0.001, {}, {{"momentum", 0}, {"norm", 0}}};
}

void compute_scalars(const Adamax& rule, const Moment& moment, double* scalars) {
    require_betas(moment);
    const double beta_1 = moment.beta_1, beta_2 = moment.beta_2;
    scalars[0] = moment.learning_rate / (1.0 - std::pow(beta_1, static_cast<double>(moment.t)));
    scalars[1] = 1.0 - beta_1;
    scalars[2] = beta_2;
    scalars[3] = rule.epsilon;
}

}  // namespace fusedopt
