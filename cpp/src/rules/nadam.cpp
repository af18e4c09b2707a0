// Nadam: what state it keeps, and the scalars of its formula.
#include <cmath>

#include "kernel/rules/nadam.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"
#include "runtime/float_environment.hpp"

namespace fusedopt {

namespace {

double momentum_at(double beta_1, std::int64_t t) {
    return beta_1 * (1.0 - 0.5 * std::pow(0.96, static_cast<double>(t)));
}

}  // namespace

static RuleSpec specify(const Nadam&) {
    RuleSpec spec{kernel::RuleId::Nadam, 0.001, {}, {{"momentum", 0}, not_negative("velocity", 0)}};
    spec.numbers = {{"product", 1.0}};
    return spec;
}

static RuleSpec specify_rowwise(const Nadam& rule) {
    return rowwise(specify(rule), kernel::RuleId::RowwiseNadam, {1});
}

static kernel::NadamScalars<double> scalars_of(const Nadam& rule, const Now& now) {
    require_betas(now);
    const double beta_1 = now.beta_1, beta_2 = now.beta_2;
    const double mu = momentum_at(beta_1, now.t);
    const double next_mu = momentum_at(beta_1, now.t + 1);
    const double product = now.numbers[0] *= mu;
    return {
        .a = now.learning_rate * next_mu / (1.0 - product * next_mu),
        .b = now.learning_rate * (1.0 - mu) / (1.0 - product),
        .c = 1.0 / (1.0 - std::pow(beta_2, static_cast<double>(now.t))),
        .one_minus_beta_1 = 1.0 - beta_1,
        .one_minus_beta_2 = 1.0 - beta_2,
        .epsilon = rule.epsilon,
    };
}

static void restore_numbers(const Nadam& rule, std::int64_t calls, std::int64_t updates, std::span<double> numbers) {
    numbers[0] = compute_in(Subnormals::flushed, rule.beta_1(calls), [&](double beta_1) {
        double product = 1.0;
        for (std::int64_t t = 1; t <= updates && product != 0.0; ++t) product *= momentum_at(beta_1, t);
        return product;
    });
}

static kernel::Guard guard_of(const Nadam&, const Now& now) {
    return adam_guard(now);
}

static kernel::Missed missed_of(const Nadam&, const kernel::NadamScalars<double>& s) {
    return {1.0, 0.0, {1.0 - s.one_minus_beta_1, 1.0 - s.one_minus_beta_2, 1.0}, 1.0, 0};
}

template struct Definition<Nadam>;

}  // namespace fusedopt
