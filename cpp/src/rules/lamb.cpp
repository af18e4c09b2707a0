// LAMB: its scalars, and a step's two sweeps with the variables' norms that are put together between them.
#include <cmath>
#include <vector>

#include "engine/plan.hpp"
#include "engine/state.hpp"
#include "kernel/border/lamb.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

class LambProcedure final : public Procedure {
public:
    explicit LambProcedure(std::span<const kernel::Job> jobs) {
        squares_.resize(jobs.empty() ? 0 : jobs.back().first_partial + tile_count(jobs.back()));
    }

    void commit(std::span<kernel::Job> jobs, std::span<const kernel::Step> steps, const SweepPlan& updated) override {
        const kernel::LambKernels* const kernels = current_kernels().lamb;
        run_kinds(updated, updated.threads(), jobs, [&](const kernel::Job& job, const kernel::Stretch& stretch) {
            kernels[job.computes_in_double].advance(steps[0], stretch, squares_.data());
        });
        set_ratios(jobs);
        run_kinds(updated, updated.threads(), jobs, [&](const kernel::Job& job, const kernel::Stretch& stretch) {
            kernels[job.computes_in_double].settle(steps[0], stretch);
        });
    }

private:
    void set_ratios(std::span<kernel::Job> jobs) const {
        const FloatEnvironment environment;
        for (kernel::Job& job : jobs) {
            if (job.work != kernel::Work::update) continue;
            double weight = 0.0, update = 0.0;
            for (std::size_t k = 0; k < tile_count(job); ++k) {
                weight += squares_[job.first_partial + k].weight;
                update += squares_[job.first_partial + k].update;
            }
            job.ratio = weight > 0.0 && update > 0.0 ? std::sqrt(weight) / std::sqrt(update) : 1.0;
        }
    }

    std::vector<kernel::Squares> squares_;  // of every tile
};

}  // namespace

static RuleSpec specify(const Lamb&) {
    RuleSpec spec{{}, 0.001, {}, {{"momentum", 0}, not_negative("velocity", 0)}};
    spec.no_rows = "Lamb's ratio takes the norms of the whole variable";
    spec.cost = elements_of;
    return spec;
}

static kernel::LambScalars<double> scalars_of(const Lamb& rule, const Now& now) {
    require_betas(now);
    const double beta_1 = now.beta_1, beta_2 = now.beta_2;
    const double t = static_cast<double>(now.t);
    return {
        .lr = now.learning_rate,
        .a = 1.0 / (1.0 - std::pow(beta_1, t)),
        .c = 1.0 / (1.0 - std::pow(beta_2, t)),
        .one_minus_beta_1 = 1.0 - beta_1,
        .one_minus_beta_2 = 1.0 - beta_2,
        .epsilon = rule.epsilon,
    };
}

static kernel::Guard guard_of(const Lamb&, const Now& now) {
    return adam_guard(now);
}

static std::unique_ptr<Procedure> make_procedure(const Lamb&, std::span<const Variable>,
                                                 std::span<const kernel::Job> jobs) {
    return std::make_unique<LambProcedure>(jobs);
}

template struct Definition<Lamb>;

}  // namespace fusedopt
