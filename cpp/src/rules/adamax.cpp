// Adamax: what state it keeps, and the scalars of its formula.
#include <cmath>

#include "kernel/rules/adamax.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"

namespace fusedopt {

static RuleSpec specify(const Adamax&) {
    return {kernel::RuleId::Adamax, 0.001, {}, {{"momentum", 0}, not_negative("norm", 0)}};
}

static kernel::AdamaxScalars<double> scalars_of(const Adamax& rule, const Now& now) {
    require_betas(now);
    const double beta_1 = now.beta_1, beta_2 = now.beta_2;
    return {
        .alpha = now.learning_rate / (1.0 - std::pow(beta_1, static_cast<double>(now.t))),
        .one_minus_beta_1 = 1.0 - beta_1,
        .beta_2 = beta_2,
        .epsilon = rule.epsilon,
    };
}

static kernel::Guard guard_of(const Adamax&, const Now& now) {
    return adamax_guard(now);
}

static kernel::Missed missed_of(const Adamax&, const kernel::AdamaxScalars<double>& s) {
    return {1.0, 0.0, {1.0 - s.one_minus_beta_1, s.beta_2, 1.0}, 1.0, 0};
}

template struct Definition<Adamax>;

}  // namespace fusedopt
