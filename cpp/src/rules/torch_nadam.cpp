// NAdam in PyTorch's numbers: what state it keeps, and the scalars of its formula, which is Nadam's.
// Source: torch/optim/nadam.py of PyTorch 2.13.
#include <cmath>

#include "kernel/rules/nadam.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"
#include "runtime/float_environment.hpp"

namespace fusedopt {
namespace {

double momentum_at(const TorchNAdam& rule, double beta_1, std::int64_t t) {
    return beta_1 * (1.0 - 0.5 * std::pow(0.96, static_cast<double>(t) * rule.momentum_decay));
}

// Rounded as PyTorch rounds it, which keeps the product in a tensor, mostly of float32.
double multiplied(double product, double mu, DType dtype) {
    if (dtype == DType::float64) return product * mu;
    return static_cast<double>(static_cast<float>(product) * static_cast<float>(mu));
}

}  // namespace

static RuleSpec specify(const TorchNAdam& rule) {
    const bool is_coupled = rule.weight_decay != 0.0 && !rule.decoupled_weight_decay;
    RuleSpec spec{is_coupled ? kernel::RuleId::CoupledNadam : kernel::RuleId::Nadam,
                  0.002,
                  {},
                  {{"exp_avg", 0}, not_negative("exp_avg_sq", 0)}};
    if (rule.decoupled_weight_decay) spec.weight_decay = rule.weight_decay;
    spec.numbers = {{"mu_product", 1.0}};
    return spec;
}

static kernel::Scalars scalars_of(const TorchNAdam& rule, const Now& now, std::size_t) {
    require_betas(now);
    const double mu = momentum_at(rule, now.beta_1, now.t);
    const double next_mu = momentum_at(rule, now.beta_1, now.t + 1);
    const double product = now.numbers[0] = multiplied(now.numbers[0], mu, now.numbers_dtype);
    const kernel::NadamScalars<double> scalars{
        .a = now.learning_rate * next_mu / (1.0 - product * next_mu),
        .b = now.learning_rate * (1.0 - mu) / (1.0 - product),
        .c = 1.0 / (1.0 - std::pow(now.beta_2, static_cast<double>(now.t))),
        .one_minus_beta_1 = 1.0 - now.beta_1,
        .one_minus_beta_2 = 1.0 - now.beta_2,
        .epsilon = rule.epsilon,
    };
    return pack_coupled(scalars, rule.weight_decay);
}

static void restore_numbers(const TorchNAdam& rule, std::int64_t calls, std::int64_t updates,
                            std::span<double> numbers) {
    numbers[0] = compute_in(Subnormals::flushed, rule.beta_1(calls), [&](double beta_1) {
        double product = 1.0;
        for (std::int64_t t = 1; t <= updates && product != 0.0; ++t) product *= momentum_at(rule, beta_1, t);
        return product;
    });
}

static kernel::Guard guard_of(const TorchNAdam&, const Now& now) {
    return adam_guard(now);
}

template struct Definition<TorchNAdam>;

}  // namespace fusedopt
