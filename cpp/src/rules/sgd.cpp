// SGD: what state it keeps, and the scalars of its formula.
#include "kernel/rules/sgd.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const SGD& rule) {
    if (rule.momentum == 0.0) return {kernel::RuleId::Sgd, 0.01, {}, {}};
    return {rule.nesterov ? kernel::RuleId::SgdNesterov : kernel::RuleId::SgdMomentum, 0.01, {}, {{"momentum", 0}}};
}

static kernel::SgdScalars<double> scalars_of(const SGD& rule, const Now& now) {
    return {
        .lr = now.learning_rate,
        .mu = rule.momentum,
    };
}

template struct Definition<SGD>;

}  // namespace fusedopt
