// Hyperparameters that are set on a MultiOptimizer, a LossScaleOptimizer or what is inside of one.
#include <cmath>
#include <functional>
#include <memory>
#include <optional>

#include "check.hpp"
#include "steps.hpp"

namespace {

using fusedopt::LossScaleOptimizer;
using fusedopt::MultiOptimizer;
using fusedopt::Optimizer;
using fusedopt::Options;
using fusedopt::Rule;

std::shared_ptr<MultiOptimizer> new_multi(std::vector<std::shared_ptr<Optimizer>> members,
                                          const std::vector<Array>& variables, std::optional<double> loss_scale_factor,
                                          std::optional<double> global_clipnorm) {
    const auto multi = std::make_shared<MultiOptimizer>(std::move(members), loss_scale_factor, global_clipnorm);
    std::vector<std::size_t> assignment;
    for (std::size_t i = 0; i < variables.size(); ++i) assignment.push_back(i % 2);
    multi->build(tensors(variables), assignment);
    return multi;
}

std::vector<std::shared_ptr<Optimizer>> members(const Rule& first, const Rule& second) {
    return {std::make_shared<Optimizer>(first), std::make_shared<Optimizer>(second)};
}

}  // namespace

TEST(what_is_set_on_members_and_on_several_optimizers_acts) {
    const std::vector<Array> variables = new_variables();
    const auto multi = new_multi(members(fusedopt::Adam{}, fusedopt::Lamb{}), variables, 4.0, std::nullopt);
    for (unsigned k = 0; k < 3; ++k) step(*multi, variables, k);
    multi->optimizers()[0]->set_rule(fusedopt::Adam{.beta_1 = 0.5});
    multi->optimizers()[1]->set_rule(fusedopt::Lamb{.beta_2 = 0.5});
    multi->optimizers()[1]->set_options({.learning_rate = 0.5, .weight_decay = 0.1, .loss_scale_factor = 4.0});
    multi->set_options(16.0, 0.5, true);
    CHECK_EQUAL(multi->loss_scale_factor(), 16.0);
    CHECK_EQUAL(multi->optimizers()[0]->loss_scale_factor(), 16.0);
    const std::vector<Array> own = copies(variables);
    const auto expected = new_multi({std::make_shared<Optimizer>(fusedopt::Adam{.beta_1 = 0.5}),
                                     std::make_shared<Optimizer>(fusedopt::Lamb{.beta_2 = 0.5},
                                                                 Options{.learning_rate = 0.5, .weight_decay = 0.1})},
                                    own, 16.0, 0.5);
    expected->set_options(16.0, 0.5, true);
    load(*expected, *multi);
    check_equal_steps("multi", *multi, variables, *expected, own);
    CHECK(multi->global_norm() == expected->global_norm());
    const Array bad(DType::float32, Shape{12, 20}, Values(240, HUGE_VAL));
    CHECK(!multi->apply(std::vector{bad.tensor()}, std::vector{variables[0].tensor()}));
    CHECK_EQUAL(multi->skipped_steps(), 1);
}

TEST(what_several_optimizers_have_taken_over_is_refused_on_each) {
    const std::vector<Array> variables = new_variables();
    auto multi = new_multi(members(fusedopt::SGD{}, fusedopt::SGD{}), variables, 4.0, 1.0);
    const std::shared_ptr<Optimizer> member = multi->optimizers()[1];
    const Options present = member->options();
    CHECK_EQUAL(present.loss_scale_factor.value(), 4.0);
    member->set_options(present);
    CHECK_REFUSED(member->set_options({}), "inside a MultiOptimizer");
    CHECK_REFUSED(member->set_options({.loss_scale_factor = 2.0}),
                  "loss_scale_factor: expected no change of it inside");
    CHECK_REFUSED(member->set_options({.clipvalue = 1.0, .loss_scale_factor = 4.0}), "found clipvalue on one of them");
    CHECK_REFUSED(multi->set_options(0.0, 1.0, false), "loss_scale_factor");
    CHECK_REFUSED(multi->set_options(1.0, 0.0, false), "global_clipnorm");
    CHECK_EQUAL(multi->loss_scale_factor(), 4.0);
    multi->set_options(std::nullopt, std::nullopt, false);
    member->set_options({.clipvalue = 1.0});
    CHECK_REFUSED(multi->set_options(std::nullopt, 1.0, false), "found clipvalue on number 1");
    member->set_options({});
    multi->set_options(std::nullopt, 1.0, false);
    multi.reset();
    member->set_options({.clipvalue = 1.0, .loss_scale_factor = 2.0});
    CHECK_EQUAL(member->loss_scale_factor(), 2.0);
}

TEST(what_a_loss_scale_has_taken_over_is_refused_inside) {
    const auto check = [](const auto& inner, const auto& set_factor) {
        auto scaled = std::make_optional<LossScaleOptimizer>(inner);
        CHECK_EQUAL(inner->loss_scale_factor(), 1.0);
        set_factor(std::nullopt);
        CHECK_REFUSED(set_factor(2.0), "inside a LossScaleOptimizer, whose dynamic_scale scales the loss");
        const LossScaleOptimizer moved = *std::move(scaled);
        scaled.reset();
        CHECK_REFUSED(set_factor(2.0), "LossScaleOptimizer");
        CHECK_EQUAL(inner->loss_scale_factor(), 1.0);
    };
    const auto optimizer = std::make_shared<Optimizer>(fusedopt::SGD{}, Options{.loss_scale_factor = 8.0});
    check(optimizer, [&](std::optional<double> factor) { optimizer->set_options({.loss_scale_factor = factor}); });
    optimizer->set_options({.loss_scale_factor = 2.0});  // alone again
    CHECK_EQUAL(optimizer->loss_scale_factor(), 2.0);
    const auto multi = std::make_shared<MultiOptimizer>(members(fusedopt::SGD{}, fusedopt::SGD{}), 8.0);
    check(multi, [&](std::optional<double> factor) { multi->set_options(factor, std::nullopt, false); });
    multi->set_options(2.0, std::nullopt, false);
    CHECK_EQUAL(multi->loss_scale_factor(), 2.0);
}

TEST(the_loss_scale_can_be_set) {
    const std::vector<Array> variables = new_variables();
    const auto inner = std::make_shared<Optimizer>(fusedopt::Adam{});
    LossScaleOptimizer scaled(inner, {.initial_scale = 8.0, .dynamic_growth_steps = 100});
    scaled.build(tensors(variables));
    for (unsigned k = 0; k < 3; ++k) step(scaled, variables, k);
    for (const double bad : {0.0, -1.0, 1e-39, 0x1p128, HUGE_VAL, std::nan("")}) {
        CHECK_REFUSED(scaled.set_dynamic_scale(bad), "dynamic_scale: expected a number from 2^-126 to 2^127");
    }
    CHECK_REFUSED(scaled.set_dynamic_growth_steps(0), "dynamic_growth_steps: expected an integer >= 1");
    CHECK_EQUAL(scaled.dynamic_scale(), 8.0);
    CHECK_EQUAL(scaled.dynamic_growth_steps(), 100);
    LossScaleOptimizer copy = scaled;  // another name for the same one
    copy.set_dynamic_scale(1024.1);
    copy.set_dynamic_growth_steps(5);
    CHECK_EQUAL(scaled.dynamic_scale(), static_cast<double>(1024.1f));
    CHECK_EQUAL(scaled.dynamic_growth_steps(), 5);
    CHECK_EQUAL(scaled.step_counter(), 3);
    inner->set_rule(fusedopt::Adam{.beta_1 = 0.5});
    const std::vector<Array> own = copies(variables);
    LossScaleOptimizer expected(Optimizer(fusedopt::Adam{.beta_1 = 0.5}), {.dynamic_growth_steps = 5});
    expected.build(tensors(own));
    load(expected, scaled);
    check_equal_steps("scaled", scaled, variables, expected, own);
    CHECK_EQUAL(scaled.dynamic_scale(), 2.0 * static_cast<double>(1024.1f));
    scaled.set_dynamic_growth_steps(1);  // no more than there have been
    step(scaled, variables, 1);
    CHECK_EQUAL(scaled.dynamic_scale(), 4.0 * static_cast<double>(1024.1f));
}

TEST(a_step_cannot_change_its_own_hyperparameters) {
    const std::vector<Array> variables = new_variables();
    std::function<void()> during = [] {};
    const Options options{.learning_rate = [&](std::int64_t) {
        during();
        return 0.5;
    }};
    const auto first = std::make_shared<Optimizer>(fusedopt::SGD{}, options);
    const auto multi = new_multi({first, std::make_shared<Optimizer>(fusedopt::SGD{})}, variables, 1.0, std::nullopt);
    LossScaleOptimizer scaled(multi, {.initial_scale = 1.0});
    const auto before = state_of(scaled, variables);
    const std::vector<std::function<void()>> changes = {
        [&] { first->set_rule(fusedopt::SGD{}); }, [&] { first->set_options({}); },
        [&] { first->set_learning_rate(1.0); },    [&] { multi->set_options(1.0, 1.0, false); },
        [&] { scaled.set_dynamic_scale(2.0); },    [&] { scaled.set_dynamic_growth_steps(1); },
    };
    for (const auto& change : changes) {
        during = change;
        CHECK_REFUSED(step(scaled, variables, 1), "called by a function of its own step");
        CHECK(state_of(scaled, variables) == before);
        change();
        scaled.set_dynamic_scale(1.0);
        first->set_options(options);
        CHECK(state_of(scaled, variables) == before);
    }
}
