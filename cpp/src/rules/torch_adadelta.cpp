// Adadelta in PyTorch's numbers: what state it keeps, and the scalars of its formula, which is Adadelta's. PyTorch
// divides one root by another, where the formula has the root of the quotient (torch/optim/adadelta.py of
// PyTorch 2.13).
#include "kernel/rules/adadelta.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const TorchAdadelta& rule) {
    RuleSpec spec{rule.weight_decay != 0.0 ? kernel::RuleId::CoupledAdadelta : kernel::RuleId::Adadelta,
                  1.0,
                  {},
                  {not_negative("square_avg", 0), not_negative("acc_delta", 0)}};
    spec.no_float8 = adadelta_feeds_back;
    return spec;
}

static kernel::Scalars scalars_of(const TorchAdadelta& rule, const Now& now, std::size_t) {
    const kernel::AdadeltaScalars<double> scalars{
        .lr = now.learning_rate,
        .rho = rule.rho,
        .one_minus_rho = 1.0 - rule.rho,
        .epsilon = rule.epsilon,
    };
    return pack_coupled(scalars, rule.weight_decay);
}

template struct Definition<TorchAdadelta>;

}  // namespace fusedopt
