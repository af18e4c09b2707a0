#include "rule.hpp"

namespace fusedopt {

RuleSpec specify(const Adagrad& rule) {
    RuleSpec spec{kernel::RuleId::Adagrad, 0.001, {}, {{"accumulator", 0}}};
    spec.slots[0].initial = rule.initial_accumulator_value;
    return spec;
}

void compute_scalars(const Adagrad& rule, const Moment& moment, double* scalars) {
    scalars[0] = moment.learning_rate;
    scalars[1] = rule.epsilon;
}

}  // namespace fusedopt
