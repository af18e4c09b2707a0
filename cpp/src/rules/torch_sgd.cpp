// SGD in PyTorch's numbers: what state it keeps, and the scalars of its formula.
#include "kernel/rules/torch_sgd.hpp"

#include "kernel/rules/sgd.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const TorchSGD& rule) {
    if (rule.momentum != 0.0) return {kernel::RuleId::TorchSgdMomentum, 0.001, {}, {{"momentum_buffer", 0}}};
    return {rule.weight_decay != 0.0 ? kernel::RuleId::CoupledSgd : kernel::RuleId::Sgd, 0.001, {}, {}};
}

static kernel::Scalars scalars_of(const TorchSGD& rule, const Now& now, std::size_t) {
    if (rule.momentum == 0.0) {
        return pack_coupled(kernel::SgdScalars<double>{.lr = now.learning_rate, .mu = 0.0}, rule.weight_decay);
    }
    const bool begins = now.t == 1;
    return pack(kernel::TorchSgdScalars<double>{
        .lr = now.learning_rate,
        .keep = begins ? 0.0 : rule.momentum,
        .one_minus_dampening = begins ? 1.0 : 1.0 - rule.dampening,
        .mu = rule.momentum,
        .nesterov = rule.nesterov ? 1.0 : 0.0,
        .weight_decay = rule.weight_decay,
    });
}

template struct Definition<TorchSGD>;

}  // namespace fusedopt
