#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const SGD& rule) {
    if (rule.momentum == 0.0) return {kernel::RuleId::Sgd, 0.01, {}, {}};
    return {rule.nesterov ? kernel::RuleId::SgdNesterov : kernel::RuleId::SgdMomentum, 0.01, {}, {{"momentum", 0}}};
}

void compute_scalars(const SGD& rule, const Moment& moment, double* scalars) {
    scalars[0] = moment.learning_rate;
    scalars[1] = rule.momentum;
}

}  // namespace fusedopt
