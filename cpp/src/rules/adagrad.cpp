// Adagrad: what state it keeps, and the scalars of its formula.
#include "kernel/rules/adagrad.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const Adagrad& rule) {
    RuleSpec spec{kernel::RuleId::Adagrad, 0.001, {}, {not_negative("accumulator", 0, rule.initial_accumulator_value)}};
    return spec;
}

static RuleSpec specify_rowwise(const Adagrad& rule) {
    return rowwise(specify(rule), kernel::RuleId::RowwiseAdagrad, {0});
}

static kernel::AdagradScalars<double> scalars_of(const Adagrad& rule, const Now& now) {
    return {
        .lr = now.learning_rate,
        .epsilon = rule.epsilon,
    };
}

static kernel::Missed missed_of(const Adagrad&, const kernel::AdagradScalars<double>&) {
    return nothing_missed;
}

template struct Definition<Adagrad>;

}  // namespace fusedopt
