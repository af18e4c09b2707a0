// Schedule-free AdamW: what state it keeps, and the scalars of its formula.
#include <algorithm>
#include <cmath>

#include "engine/check.hpp"
#include "kernel/rules/schedule_free_adamw.hpp"
#include "rules/definition.hpp"

namespace fusedopt {

static RuleSpec specify(const ScheduleFreeAdamW&) {
    RuleSpec spec{kernel::RuleId::ScheduleFreeAdamW, 0.0025, {}, {{"momentum", 0}, not_negative("velocity", 0)}};
    spec.slots[0].copies_variable = true;
    spec.interpolates = true;
    spec.no_float8 = "a slot of schedule-free AdamW holds weights, which move by far less than a sixteenth";
    spec.only_lazy = "schedule-free AdamW moves every row in every step, along with its average";
    return spec;
}

static kernel::ScheduleFreeAdamWScalars<double> scalars_of(const ScheduleFreeAdamW& rule, const Now& now) {
    const double beta_1 = now.beta_1;
    const double beta_2 = now.beta_2;
    require("beta_1", beta_1, domains::above_0_below_1);  // the rule divides by it
    require_below_one("beta_2", beta_2);
    const double t = static_cast<double>(now.t);
    const double warmup = rule.warmup_steps > 0 ? std::min(t / static_cast<double>(rule.warmup_steps), 1.0) : 1.0;
    return {
        .lr = now.learning_rate * warmup,
        .c = 1.0 / (1.0 - std::pow(beta_2, t)),
        .epsilon = rule.epsilon,
        .beta_1 = beta_1,
        .one_minus_beta_1 = 1.0 - beta_1,
        .inverse_beta_1 = 1.0 / beta_1,
        .one_minus_beta_2 = 1.0 - beta_2,
        .weight = 1.0 / t,
        .one_minus_weight = 1.0 - 1.0 / t,
    };
}

template struct Definition<ScheduleFreeAdamW>;

}  // namespace fusedopt
