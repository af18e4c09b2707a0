// SGD: what state it keeps, and the scalars of its formula.
#include "kernel/rules/sgd.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const SGD& rule) {
    if (rule.momentum == 0.0) return {kernel::RuleId::Sgd, 0.01, {}, {}};
    RuleSpec spec{
        rule.nesterov ? kernel::RuleId::SgdNesterov : kernel::RuleId::SgdMomentum, 0.01, {}, {{"momentum", 0}}};
    spec.mover = {0};
    return spec;
}

static kernel::SgdScalars<double> scalars_of(const SGD& rule, const Now& now) {
    return {
        .lr = now.learning_rate,
        .mu = rule.momentum,
    };
}

static kernel::Missed missed_of(const SGD& rule, const kernel::SgdScalars<double>& s) {
    if (rule.momentum == 0.0) return nothing_missed;
    return {1.0, rule.nesterov ? s.mu * s.mu : s.mu, {s.mu, 1.0, 1.0}, 1.0, 0};
}

template struct Definition<SGD>;

}  // namespace fusedopt
