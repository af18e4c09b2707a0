// Several optimizers stepped as one: each gives what it gives alone, and all of them write or none does.
#include <cmath>
#include <memory>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

using fusedopt::MultiOptimizer;
using fusedopt::Optimizer;
using fusedopt::Options;

std::vector<std::shared_ptr<Optimizer>> two_optimizers() {
    return {std::make_shared<Optimizer>(fusedopt::AdamW{}, Options{.clipnorm = 1.0, .use_ema = true}),
            std::make_shared<Optimizer>(fusedopt::Lamb{}, Options{.gradient_accumulation_steps = 2})};
}

// Four variables, large enough for threads: 0 and 3 for the first optimizer, 1 and 2 for the second.
struct Arrays {
    std::vector<Array> variables, gradients;

    Arrays() {
        for (unsigned i = 0; i < 4; ++i) {
            variables.emplace_back(all_dtypes[i], numbers(all_dtypes[i], 20000 + i, i));
            gradients.emplace_back(all_dtypes[3 - i], numbers(all_dtypes[3 - i], 20000 + i, 10 + i));
        }
    }
};

const std::vector<std::size_t> assignment = {0, 1, 1, 0};

std::vector<Tensor> chosen(const std::vector<Array>& arrays, std::size_t a, std::size_t b) {
    return {arrays[a].tensor(), arrays[b].tensor()};
}

}  // namespace

TEST(each_optimizer_gives_what_it_gives_alone) {
    on_every_level_and_thread_count([](const std::string&) {
        Arrays together, alone;
        MultiOptimizer optimizer(two_optimizers(), 4.0);
        optimizer.build(tensors(together.variables), assignment);
        auto singles = two_optimizers();
        const Options first{.clipnorm = 1.0, .use_ema = true, .loss_scale_factor = 4.0};
        const Options second{.loss_scale_factor = 4.0, .gradient_accumulation_steps = 2};
        Optimizer one(fusedopt::AdamW{}, first), other(fusedopt::Lamb{}, second);
        one.build(chosen(alone.variables, 0, 3));
        other.build(chosen(alone.variables, 1, 2));
        for (int k = 0; k < 4; ++k) {
            optimizer.apply(tensors(together.gradients));
            one.apply(chosen(alone.gradients, 0, 3));
            other.apply(chosen(alone.gradients, 1, 2));
        }
        CHECK_EQUAL(optimizer.iterations(), 4);
        CHECK_EQUAL(optimizer.optimizers()[1]->iterations(), 2);
        CHECK(snapshot(*optimizer.optimizers()[0], chosen(together.variables, 0, 3)) ==
              snapshot(one, chosen(alone.variables, 0, 3)));
        CHECK(snapshot(*optimizer.optimizers()[1], chosen(together.variables, 1, 2)) ==
              snapshot(other, chosen(alone.variables, 1, 2)));
        // Those that get no gradient stand still.
        optimizer.apply(chosen(together.gradients, 3, 0), chosen(together.variables, 3, 0));
        CHECK_EQUAL(optimizer.optimizers()[0]->calls(), 5);
        CHECK_EQUAL(optimizer.optimizers()[1]->calls(), 4);
    });
}

TEST(a_refused_call_writes_nowhere) {
    Arrays arrays;
    bool throws = false;
    const auto rate = [&](std::int64_t) { return throws ? -1.0 : 0.1; };
    auto optimizers = two_optimizers();
    optimizers.push_back(std::make_shared<Optimizer>(fusedopt::SGD{.momentum = 0.9}, Options{.learning_rate = rate}));
    MultiOptimizer optimizer(optimizers);
    optimizer.build(tensors(arrays.variables), std::vector<std::size_t>{0, 1, 1, 2});
    const std::vector<Tensor> good = tensors(arrays.gradients);
    optimizer.apply(good);
    const auto before = snapshot(optimizer, tensors(arrays.variables));
    const auto refused = [&](std::size_t i, const Tensor& gradient, const char* part) {
        std::vector<Tensor> bad = good;
        bad[i] = gradient;
        CHECK_REFUSED(optimizer.apply(bad), part);
        CHECK(snapshot(optimizer, tensors(arrays.variables)) == before);
    };
    refused(3, arrays.gradients[2].tensor(), "expected shape");
    refused(0, Tensor(arrays.variables[1].data(), DType::float64, Shape{20000}), "overlapping");
    refused(3, Tensor(optimizer.optimizers()[2]->variables().back().tensor), "overlapping");
    refused(0, Tensor(optimizer.optimizers()[2]->variables().back().tensor.data(), DType::float32, Shape{20000}),
            "overlapping");
    CHECK_REFUSED(optimizer.apply({good[0], good[1]}), "expected 4 gradients");
    throws = true;
    CHECK_REFUSED(optimizer.apply(good), "learning_rate");
    CHECK(snapshot(optimizer, tensors(arrays.variables)) == before);
    throws = false;
    optimizer.apply(good);
    CHECK(snapshot(optimizer, tensors(arrays.variables)) != before);
}

TEST(what_build_refuses_leaves_all_unbuilt) {
    Arrays arrays;
    MultiOptimizer optimizer(two_optimizers());
    const std::vector<Tensor> good = tensors(arrays.variables);
    std::vector<Tensor> bad = good;
    bad[1] = arrays.variables[1].read_only();
    CHECK_REFUSED(optimizer.build(bad, assignment), "variable 1: expected writable");
    bad[1] = good[0];
    CHECK_REFUSED(optimizer.build(bad, assignment), "overlapping variable 0");
    CHECK_REFUSED(optimizer.build(good, std::vector<std::size_t>{0, 1, 2, 0}), "for variable 2, found 2");
    CHECK_REFUSED(optimizer.build(good, std::vector<std::size_t>{0, 1}), "for each of 4");
    CHECK(!optimizer.built() && !optimizer.optimizers()[0]->built() && !optimizer.optimizers()[1]->built());
    optimizer.build(good, assignment);
    CHECK(optimizer.built());
    const auto same = std::make_shared<Optimizer>(fusedopt::SGD{});
    CHECK_REFUSED(MultiOptimizer({same, same}), "each optimizer once");
    CHECK_REFUSED(MultiOptimizer({same, nullptr}), "expected an optimizer at 1");
    CHECK_REFUSED(MultiOptimizer({same}, -1.0), "loss_scale_factor");
}

TEST(an_overflow_in_one_stops_all) {
    Arrays arrays;
    const auto inner = std::make_shared<MultiOptimizer>(two_optimizers());
    fusedopt::LossScaleOptimizer optimizer(inner, {.initial_scale = 8.0, .dynamic_growth_steps = 2});
    inner->build(tensors(arrays.variables), assignment);
    for (std::size_t i = 0; i < 4; ++i) {
        CHECK(optimizer.apply(tensors(arrays.gradients)));
        CHECK(optimizer.apply(tensors(arrays.gradients)));
        CHECK_EQUAL(optimizer.dynamic_scale(), 16.0);
        const auto before = snapshot(*inner, tensors(arrays.variables));
        std::vector<Tensor> list = tensors(arrays.gradients);
        const Array bad(DType::float32, Values(20000 + i, HUGE_VAL));
        list[i] = bad.tensor();
        CHECK(!optimizer.apply(list));
        CHECK_EQUAL(optimizer.dynamic_scale(), 8.0);
        CHECK(snapshot(*inner, tensors(arrays.variables)) == before);
    }
}

namespace {

std::vector<std::shared_ptr<Optimizer>> equal_optimizers(const Options& options) {
    return {std::make_shared<Optimizer>(fusedopt::Adam{}, options),
            std::make_shared<Optimizer>(fusedopt::Adam{}, options)};
}

}  // namespace

TEST(one_norm_over_equal_optimizers_gives_the_bits_of_one_optimizer) {
    on_every_level_and_thread_count([](const std::string&) {
        for (const auto steps : {std::optional<std::int64_t>(), std::optional<std::int64_t>(2)}) {
            Arrays together, alone;
            MultiOptimizer optimizer(equal_optimizers({.gradient_accumulation_steps = steps}), 4.0, 0.5);
            optimizer.build(tensors(together.variables), assignment);
            Optimizer one(fusedopt::Adam{},
                          {.global_clipnorm = 0.5, .loss_scale_factor = 4.0, .gradient_accumulation_steps = steps});
            one.build(tensors(alone.variables));
            CHECK(!optimizer.global_norm());
            for (int k = 0; k < 4; ++k) {
                CHECK(optimizer.apply(tensors(together.gradients)));
                CHECK(one.apply(tensors(alone.gradients)));
                CHECK(optimizer.global_norm() == one.global_norm());
            }
            CHECK(*one.global_norm() > 0.5);
            for (std::size_t i = 0; i < 4; ++i) {
                CHECK(values_of(together.variables[i].tensor()) == values_of(alone.variables[i].tensor()));
            }
        }
    });
}

TEST(one_norm_takes_no_optimizer_that_clips_besides) {
    const auto refused = [](const Options& options, const char* part) {
        const auto member = std::make_shared<Optimizer>(fusedopt::SGD{}, options);
        CHECK_REFUSED(MultiOptimizer({member}, 8.0, 1.0), part);
        CHECK_EQUAL(member->loss_scale_factor(), 1.0);
    };
    refused({.clipnorm = 1.0}, "found clipnorm on number 0");
    refused({.clipvalue = 1.0}, "found clipvalue on number 0");
    refused({.global_clipnorm = 1.0}, "found global_clipnorm on number 0");
    CHECK_REFUSED(MultiOptimizer(two_optimizers(), std::nullopt, 0.0), "global_clipnorm");
}

TEST(all_skip_a_step_with_a_gradient_that_is_not_finite) {
    for (const bool by_members : {true, false}) {
        Arrays arrays;
        MultiOptimizer optimizer(equal_optimizers({.use_ema = true, .skip_nonfinite = by_members}), std::nullopt,
                                 std::nullopt, !by_members);
        optimizer.build(tensors(arrays.variables), assignment);
        CHECK(optimizer.apply(tensors(arrays.gradients)));
        const auto before = snapshot(optimizer, tensors(arrays.variables));
        for (std::size_t i = 0; i < 4; ++i) {
            std::vector<Tensor> list = tensors(arrays.gradients);
            const Array bad(DType::float32, Values(20000 + i, HUGE_VAL));
            list[i] = bad.tensor();
            CHECK(!optimizer.apply(list));
            CHECK(snapshot(optimizer, tensors(arrays.variables)) == before);
        }
        CHECK_EQUAL(optimizer.iterations(), 1);
        CHECK_EQUAL(optimizer.skipped_steps(), 4);
        for (const auto& member : optimizer.optimizers()) CHECK_EQUAL(member->skipped_steps(), by_members ? 4 : 0);
        std::vector<Tensor> values;
        for (const auto& [name, tensor] : optimizer.state()) values.push_back(tensor);
        Arrays others;
        MultiOptimizer other(equal_optimizers({.use_ema = true, .skip_nonfinite = by_members}), std::nullopt,
                             std::nullopt, !by_members);
        other.build(tensors(others.variables), assignment);
        other.set_state(values);
        CHECK_EQUAL(other.skipped_steps(), 4);
        CHECK_EQUAL(other.optimizers()[1]->skipped_steps(), by_members ? 4 : 0);
    }
}

TEST(exclusions_may_name_variables_of_another_optimizer) {
    Arrays arrays, others;
    const auto members = [] {
        return std::vector{std::make_shared<Optimizer>(fusedopt::AdamW{}),
                           std::make_shared<Optimizer>(fusedopt::AdamW{})};
    };
    auto some = members(), rest = members();
    const std::vector<Tensor> all = tensors(arrays.variables);
    some[0]->exclude_from_weight_decay(all);
    MultiOptimizer one(some), other(rest);
    one.build(all, assignment);
    rest[0]->exclude_from_weight_decay(chosen(others.variables, 0, 3));
    other.build(tensors(others.variables), assignment);
    one.apply(tensors(arrays.gradients));
    other.apply(tensors(others.gradients));
    for (std::size_t i = 0; i < 4; ++i) {
        CHECK(values_of(arrays.variables[i].tensor()) == values_of(others.variables[i].tensor()));
    }
    const Array stranger(DType::float32, Values(3));
    auto last = members();
    last[1]->exclude_from_weight_decay(std::vector{stranger.tensor()});
    MultiOptimizer refused(last);
    CHECK_REFUSED(refused.build(all, assignment), "exclude_from_weight_decay: expected variables given to build");
    CHECK(!refused.built() && !last[0]->built());
}

TEST(an_optimizer_without_variables_lists_what_keras_lists) {
    const Array array(DType::float32, Values(3));
    const auto nadam = std::make_shared<Optimizer>(fusedopt::Nadam{});
    MultiOptimizer optimizer({nadam, std::make_shared<Optimizer>(fusedopt::SGD{})});
    CHECK_EQUAL(nadam->variables().size(), 2u);
    optimizer.build(std::vector{array.tensor()}, std::vector<std::size_t>{1});
    CHECK_EQUAL(nadam->variables().size(), 2u);
    CHECK_EQUAL(optimizer.variables().size(), 6u);
    std::vector<Tensor> values;
    for (const auto& [name, tensor] : optimizer.variables()) values.push_back(tensor);
    optimizer.set_weights(values);
    Optimizer alone(fusedopt::Nadam{});
    alone.build({});
    CHECK_EQUAL(alone.variables().size(), 3u);
}

TEST(complete_state_goes_on_bit_for_bit) {
    Arrays arrays, others;
    MultiOptimizer one(two_optimizers()), other(two_optimizers());
    one.build(tensors(arrays.variables), assignment);
    other.build(tensors(others.variables), assignment);
    for (int k = 0; k < 3; ++k) one.apply(tensors(arrays.gradients));
    std::vector<Tensor> values;
    for (const auto& [name, tensor] : one.state()) values.push_back(tensor);
    other.set_state(values);
    for (std::size_t i = 0; i < 4; ++i) {
        const Tensor from = arrays.variables[i].tensor();
        std::memcpy(others.variables[i].data(), from.data(), static_cast<std::size_t>(from.size_bytes()));
    }
    for (int k = 0; k < 3; ++k) {
        one.apply(tensors(arrays.gradients));
        other.apply(tensors(arrays.gradients));
    }
    CHECK(snapshot(one, tensors(arrays.variables)) == snapshot(other, tensors(others.variables)));
    values.pop_back();
    const auto before = snapshot(other, tensors(others.variables));
    CHECK_REFUSED(other.set_state(values), "set_weights: expected");
    CHECK(snapshot(other, tensors(others.variables)) == before);
}

TEST(a_function_cannot_step_its_own_group) {
    const Shape shape = {30, 40};
    const Array gradient(DType::float64, shape, numbers(DType::float64, 1200, 1));
    const Array one(DType::float64, shape, Values(1200)), other = one.copy();
    const Tensor transposed(static_cast<void*>(gradient.data()), DType::float64, shape, Shape{8, 240});
    std::shared_ptr<MultiOptimizer> optimizer;
    int refused = 0;
    const auto rate = [&](std::int64_t) {
        try {
            optimizer->apply({gradient.tensor()});
        } catch (const std::invalid_argument&) {
            ++refused;
        }
        return 0.5;
    };
    optimizer = std::make_shared<MultiOptimizer>(
        std::vector{std::make_shared<Optimizer>(fusedopt::SGD{}, Options{.learning_rate = rate})});
    optimizer->build(std::vector{one.tensor()}, std::vector<std::size_t>{0});
    optimizer->apply({transposed});
    CHECK_EQUAL(refused, 1);
    Optimizer alone(fusedopt::SGD{}, {.learning_rate = 0.5});
    alone.build({other.tensor()});
    alone.apply({transposed});
    CHECK(values_of(one.tensor()) == values_of(other.tensor()));
}
