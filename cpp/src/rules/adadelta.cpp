#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const Adadelta&) {
    return {kernel::RuleId::Adadelta, 0.001, {}, {{"accumulated_grad", 0}, {"accumulated_delta_var", 0}}};
}

void compute_scalars(const Adadelta& rule, const Moment& moment, double* scalars) {
    scalars[0] = moment.learning_rate;
    scalars[1] = rule.rho;
    scalars[2] = 1.0 - rule.rho;
    scalars[3] = rule.epsilon;
}

}  // namespace fusedopt
