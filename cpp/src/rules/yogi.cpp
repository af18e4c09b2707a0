// Yogi: what state it keeps, and the scalars of its formula.
#include <cmath>

#include "kernel/rules/yogi.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"

namespace fusedopt {

static RuleSpec specify(const Yogi& rule) {
    const double initial = rule.initial_accumulator_value;
    return {kernel::RuleId::Yogi, 0.01, {}, {{"momentum", 0, initial}, not_negative("velocity", 0, initial)}};
}

static RuleSpec specify_rowwise(const Yogi& rule) {
    return rowwise(specify(rule), kernel::RuleId::RowwiseYogi, {1});
}

static kernel::YogiScalars<double> scalars_of(const Yogi& rule, const Now& now) {
    require_betas(now);
    const double beta_1 = now.beta_1, beta_2 = now.beta_2;
    const double t = static_cast<double>(now.t);
    return {
        .alpha = now.learning_rate / (1.0 - std::pow(beta_1, t)),
        .c = 1.0 / (1.0 - std::pow(beta_2, t)),
        .one_minus_beta_1 = 1.0 - beta_1,
        .one_minus_beta_2 = 1.0 - beta_2,
        .epsilon = rule.epsilon,
    };
}

static kernel::Guard guard_of(const Yogi&, const Now& now) {
    return adam_guard(now);
}

static kernel::Missed missed_of(const Yogi&, const kernel::YogiScalars<double>& s) {
    return {1.0, 0.0, {1.0 - s.one_minus_beta_1, 1.0, 1.0}, 1.0, 0};
}

template struct Definition<Yogi>;

}  // namespace fusedopt
