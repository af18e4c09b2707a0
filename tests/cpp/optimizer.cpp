// The state machine: what is counted, when functions are called, the order of state, moving, loading, averages.
#include <cmath>
#include <functional>
#include <memory>
#include <stdexcept>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

using fusedopt::Optimizer;
using fusedopt::Options;

struct Caught : std::runtime_error {
    using std::runtime_error::runtime_error;
};

template <class Call>
bool throws_caught(const Call& call) {
    try {
        call();
    } catch (const Caught&) {
        return true;
    }
    return false;
}

std::string names_of(const Optimizer& optimizer) {
    std::string names;
    for (const auto& [name, tensor] : optimizer.variables()) names += name + " ";
    return names;
}

}  // namespace

TEST(the_example_of_the_design) {
    std::vector<float> weights(6, 1.0f), bias(2, 0.5f);
    const std::vector<float> weights_gradient(6, 0.1f), bias_gradient(2, 0.0f);
    Optimizer optimizer(fusedopt::AdamW{.weight_decay = 4e-3}, {.learning_rate = 1e-3, .global_clipnorm = 1.0});
    optimizer.build({Tensor(weights), Tensor(bias)});
    optimizer.apply({Tensor(weights_gradient), Tensor(bias_gradient)});
    CHECK_EQUAL(optimizer.iterations(), 1);
    CHECK(weights[0] < 1.0f && weights[5] == weights[0]);
    CHECK_EQUAL(bias[0], 0.5f * static_cast<float>(1.0 - 4e-3 * 1e-3));
}

TEST(defaults_are_those_of_keras) {
    CHECK_EQUAL(Optimizer(fusedopt::SGD{}).learning_rate(), 0.01);
    CHECK_EQUAL(Optimizer(fusedopt::RMSprop{}).learning_rate(), 0.001);
    CHECK_EQUAL(Optimizer(fusedopt::Adam{}).learning_rate(), 0.001);
    CHECK_EQUAL(Optimizer(fusedopt::AdamW{}).learning_rate(), 0.001);
    CHECK_EQUAL(Optimizer(fusedopt::Ftrl{}).learning_rate(), 0.001);
    CHECK_EQUAL(Optimizer(fusedopt::ScheduleFreeAdamW{}).learning_rate(), 0.0025);
    CHECK_EQUAL(Optimizer(fusedopt::SGD{}, {.loss_scale_factor = 8.0}).scale_loss(2.0), 16.0);
}

TEST(state_stands_in_the_order_of_keras) {
    const Array a(DType::float32, Values(2)), b(DType::float64, Values(3));
    const auto names = [&](const fusedopt::Rule& rule, const Options& options = {}) {
        Optimizer optimizer(rule, options);
        optimizer.build({a.tensor(), b.tensor()});
        return names_of(optimizer);
    };
    const std::string head = "iteration learning_rate ";
    CHECK_EQUAL(names(fusedopt::SGD{}), head);
    CHECK_EQUAL(names(fusedopt::SGD{.momentum = 0.9}), head + "momentum/0 momentum/1 ");
    CHECK_EQUAL(names(fusedopt::RMSprop{.momentum = 0.9, .centered = true}),
                head + "velocity/0 velocity/1 momentum/0 momentum/1 average_gradient/0 average_gradient/1 ");
    CHECK_EQUAL(names(fusedopt::Adam{.amsgrad = true}),
                head + "momentum/0 velocity/0 momentum/1 velocity/1 velocity_hat/0 velocity_hat/1 ");
    CHECK_EQUAL(names(fusedopt::Nadam{}), head + "momentum/0 velocity/0 momentum/1 velocity/1 product ");
    CHECK_EQUAL(names(fusedopt::Ftrl{}), head + "accumulator/0 linear/0 accumulator/1 linear/1 ");
    CHECK_EQUAL(names(fusedopt::SGD{}, {.use_ema = true, .gradient_accumulation_steps = 2}),
                head + "average/0 average/1 gradient_accumulator/0 gradient_accumulator/1 ");
    CHECK_EQUAL(names(fusedopt::SGD{}, {.learning_rate = [](std::int64_t) { return 0.1; }}), "iteration ");
}

TEST(functions_are_called_once_in_a_step_that_updates) {
    const Array a(DType::float32, numbers(DType::float32, 50000, 1)),
        b(DType::float16, numbers(DType::float16, 3000, 2));
    const Array g(DType::float32, numbers(DType::float32, 50000, 3)),
        h(DType::float32, numbers(DType::float32, 3000, 4));
    std::vector<std::int64_t> rates, betas;
    const auto rate = [&](std::int64_t step) { return rates.push_back(step), 0.1; };
    const auto beta = [&](std::int64_t step) { return betas.push_back(step), 0.9; };
    for (const int threads : thread_counts()) {
        fusedopt::set_num_threads(threads);
        Optimizer optimizer(
            fusedopt::AdamW{.beta_2 = beta},
            {.learning_rate = rate, .clipnorm = 1.0, .use_ema = true, .gradient_accumulation_steps = 3});
        optimizer.build({a.tensor(), b.tensor()});
        rates.clear();
        betas.clear();
        for (int k = 0; k < 7; ++k) {
            optimizer.apply({g.tensor(), h.tensor()});
            CHECK_REFUSED(optimizer.apply({h.tensor(), g.tensor()}), "expected shape");
        }
        CHECK(rates == std::vector<std::int64_t>({2, 5}));
        CHECK(betas == rates);
        CHECK_EQUAL(optimizer.calls(), 7);
        CHECK_EQUAL(optimizer.iterations(), 2);
        CHECK_EQUAL(optimizer.learning_rate(), 0.1);
        CHECK_EQUAL(rates.back(), 7);
    }
    fusedopt::set_num_threads(1);
}

TEST(functions_are_not_called_for_a_skipped_step) {
    const Array a(DType::float32, Values(10));
    int calls = 0;
    const auto rate = [&](std::int64_t) { return ++calls, 0.1; };
    fusedopt::LossScaleOptimizer optimizer(Optimizer(fusedopt::SGD{}, {.learning_rate = rate}));
    optimizer.build({a.tensor()});
    CHECK(!optimizer.apply({Array(DType::float32, Values(10, HUGE_VAL)).tensor()}));
    CHECK_EQUAL(calls, 0);
    CHECK(optimizer.apply({Array(DType::float32, Values(10, 1.0)).tensor()}));
    CHECK_EQUAL(calls, 1);
}

TEST(a_function_that_throws_leaves_everything_as_it_was) {
    const Array a(DType::float32, numbers(DType::float32, 50000, 1)),
        g(DType::float32, numbers(DType::float32, 50000, 3));
    const std::vector<Tensor> variables = {a.tensor()};
    bool throws = false;
    double value = 0.5;
    const auto function = [&](std::int64_t) { return throws ? throw Caught("no rate today") : value; };
    for (const int which : {0, 1, 2}) {
        fusedopt::AdamW rule;
        Options options{.global_clipnorm = 1.0, .use_ema = true, .gradient_accumulation_steps = 2};
        if (which == 0) options.learning_rate = function;
        if (which == 1) rule.beta_1 = function;
        if (which == 2) rule.beta_2 = function;
        fusedopt::LossScaleOptimizer optimizer(Optimizer(rule, options),
                                               {.initial_scale = 2.0, .dynamic_growth_steps = 9});
        throws = false;
        optimizer.build(variables);
        for (int k = 0; k < 3; ++k) optimizer.apply({g.tensor()});
        const auto before = snapshot(optimizer, variables);
        const auto norm = optimizer.inner().global_norm();
        throws = true;
        CHECK(throws_caught([&] { optimizer.apply({g.tensor()}); }));
        throws = false;
        for (const double bad : {-1.0, std::nan(""), HUGE_VAL}) {
            value = bad;
            CHECK_REFUSED(optimizer.apply({g.tensor()}), which == 0   ? "learning_rate"
                                                         : which == 1 ? "beta_1"
                                                                      : "beta_2");
        }
        CHECK(snapshot(optimizer, variables) == before);
        CHECK(optimizer.inner().global_norm() == norm);
        value = 0.5;
        CHECK(optimizer.apply({g.tensor()}));
        CHECK(snapshot(optimizer, variables) != before);
    }
}

TEST(a_function_may_read_its_optimizer_but_not_change_it) {
    const Array a(DType::float32, Values{1.0}), g(DType::float32, Values{1.0});
    std::unique_ptr<Optimizer> optimizer;
    std::function<void()> meddle = [] {};
    const auto rate = [&](std::int64_t step) {
        CHECK_EQUAL(optimizer->calls(), step);
        meddle();
        return 0.25;
    };
    optimizer = std::make_unique<Optimizer>(fusedopt::SGD{}, Options{.learning_rate = rate, .use_ema = true});
    optimizer->build({a.tensor()});
    optimizer->apply({g.tensor()});
    CHECK_EQUAL(values_of(a.tensor())[0], 0.75);
    std::vector<Tensor> weights;
    for (const auto& [name, tensor] : optimizer->variables()) weights.push_back(tensor);
    const auto before = snapshot(*optimizer, std::vector{a.tensor()});
    const std::function<void()> attempts[] = {
        [&] { optimizer->apply({g.tensor()}); },
        [&] { optimizer->set_learning_rate(0.5); },
        [&] { optimizer->set_weights(weights); },
        [&] { optimizer->finalize_variable_values(std::vector{a.tensor()}); },
    };
    for (const std::function<void()>& attempt : attempts) {
        meddle = attempt;
        CHECK_REFUSED(optimizer->apply({g.tensor()}), "its own step");
        CHECK(snapshot(*optimizer, std::vector{a.tensor()}) == before);
    }
    meddle = [] {};
    optimizer->apply({g.tensor()});
    CHECK_EQUAL(values_of(a.tensor())[0], 0.5);
    meddle = [&] { optimizer->set_learning_rate(0.5); };  // outside a step, the last call to the function
    CHECK_EQUAL(optimizer->learning_rate(), 0.25);
    CHECK_EQUAL(optimizer->learning_rate(), 0.5);
}

TEST(the_learning_rate_is_set_and_stored) {
    const Array a(DType::float64, Values{0.0}), g(DType::float64, Values{1.0});
    Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1});
    optimizer.build({a.tensor()});
    optimizer.apply({g.tensor()});
    optimizer.set_learning_rate(0.5);
    optimizer.apply({g.tensor()});
    CHECK_EQUAL(values_of(a.tensor())[0], -1.5);
    const double stored = 0.25;
    std::memcpy(optimizer.variables()[1].tensor.data(), &stored, sizeof(stored));  // the view is live
    CHECK_EQUAL(optimizer.learning_rate(), 0.25);
    optimizer.apply({g.tensor()});
    CHECK_EQUAL(values_of(a.tensor())[0], -1.75);
    optimizer.set_learning_rate([](std::int64_t step) { return static_cast<double>(step); });
    CHECK_EQUAL(optimizer.learning_rate(), 3.0);
    optimizer.set_learning_rate(2.0);
    CHECK_EQUAL(optimizer.learning_rate(), 2.0);
    CHECK_REFUSED(optimizer.set_learning_rate(-1.0), "learning_rate");
    CHECK_EQUAL(optimizer.learning_rate(), 2.0);
}

TEST(variables_are_recognised_by_their_memory) {
    std::vector<Array> arrays;
    for (unsigned i = 0; i < 20; ++i) arrays.emplace_back(DType::float32, Shape{3, 5 + i}, Values(3 * (5 + i)));
    Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0});
    optimizer.build(tensors(arrays));
    for (unsigned i = 20; i-- > 0;) {
        const Array gradient(DType::float32, Shape{3, 5 + i}, Values(3 * (5 + i), -1.0 - i));
        optimizer.apply(std::vector{gradient.tensor()}, std::vector{arrays[i].tensor()});
    }
    for (unsigned i = 0; i < 20; ++i) {
        CHECK_EQUAL(difference(values_of(arrays[i].tensor()), Values(3 * (5 + i), 1.0 + i)), "");
    }
}

TEST(a_variable_without_elements_given_twice_stands_for_no_other) {
    const Array a(DType::float32, Values{1.0}), empty(DType::float32, Shape{0}, Values{});
    const Array gradient(DType::float32, Values{1.0});
    const Tensor other(static_cast<void*>(nullptr), DType::float32, Shape{0});
    Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0, .global_clipnorm = 10.0});
    optimizer.build({a.tensor(), empty.tensor(), other});
    optimizer.apply(std::vector{other, other, other}, std::vector{other, empty.tensor(), empty.tensor()});
    CHECK_EQUAL(values_of(a.tensor())[0], 1.0);
    optimizer.apply(std::vector{other, gradient.tensor()}, std::vector{other, a.tensor()});
    CHECK_EQUAL(values_of(a.tensor())[0], 0.0);
}

TEST(a_view_moves_to_other_memory) {
    const Array a(DType::float32, Values{1.0, 2.0}), g(DType::float32, Values{0.5, 0.5}),
        h(DType::float32, Values{1.0, 1.0});
    Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0});
    optimizer.build({a.tensor()});
    Tensor gradient = g.tensor();
    optimizer.apply({gradient});
    gradient.move_to(h.tensor().data());
    optimizer.apply({gradient});
    CHECK_EQUAL(difference(values_of(a.tensor()), Values{-0.5, 0.5}), "");
}

TEST(excluded_variables_do_not_decay) {
    const Array a(DType::float32, Values{1.0}), b(DType::float32, Values{1.0}), zero(DType::float32, Values{0.0});
    Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 0.5, .weight_decay = 0.5});
    optimizer.exclude_from_weight_decay(std::vector{a.tensor()});
    optimizer.exclude_from_weight_decay(std::vector{b.tensor()});  // instead of the first
    optimizer.build({a.tensor(), b.tensor()});
    optimizer.apply({zero.tensor(), zero.tensor()});
    CHECK_EQUAL(values_of(a.tensor())[0], 0.75);
    CHECK_EQUAL(values_of(b.tensor())[0], 1.0);
}

TEST(averages_are_written_back) {
    for (const DType dtype : all_dtypes) {
        const Array a(dtype, numbers(dtype, 2000, 1));
        const Options options{.learning_rate = 0.1, .use_ema = true, .ema_momentum = 0.5};
        Optimizer optimizer(fusedopt::SGD{}, options);
        optimizer.build({a.tensor()});
        for (unsigned k = 0; k < 3; ++k) {
            optimizer.apply({Array(DType::float32, numbers(DType::float32, 2000, 2 + k)).tensor()});
        }
        const Values average = values_of(optimizer.variables()[2].tensor);
        CHECK(!difference(values_of(a.tensor()), rounded(dtype, average)).empty());
        optimizer.finalize_variable_values(std::vector{a.tensor()});
        CHECK_EQUAL(difference(values_of(a.tensor()), rounded(dtype, average)), "");
        CHECK_EQUAL(difference(values_of(optimizer.variables()[2].tensor), average), "");
    }
}

TEST(all_state_moves_to_another_optimizer) {
    const Array a(DType::bfloat16, numbers(DType::bfloat16, 3000, 1)),
        g(DType::float32, numbers(DType::float32, 3000, 2));
    for (const auto& [rule_name, rule] : rule_cases()) {
        for (const auto& [option_name, options] : option_cases()) {
            const Array x = a.copy(), y = a.copy();
            Optimizer one(rule, options), other(rule, options);
            one.build({x.tensor()});
            other.build({y.tensor()});
            other.apply({g.tensor()});
            for (int k = 0; k < 4; ++k) one.apply({g.tensor()});
            std::vector<Tensor> values;
            const auto state = one.variables();
            for (const auto& [name, tensor] : state) values.push_back(tensor);
            other.set_weights(values);
            CHECK(snapshot(one, {}) == snapshot(other, {}));
            // The master copies are no part of the state, so both go on from the rounded weights.
            std::memcpy(y.data(), x.data(), 6000);
            const Array z = x.copy();
            Optimizer third(rule, options);
            third.build({z.tensor()});
            third.set_weights(values);
            for (int k = 0; k < 3; ++k) other.apply({g.tensor()});
            for (int k = 0; k < 3; ++k) third.apply({g.tensor()});
            CHECK_EQUAL(difference(values_of(y.tensor()), values_of(z.tensor())), "");
        }
    }
}

TEST(complete_state_goes_on_bit_for_bit) {
    const Array a(DType::bfloat16, numbers(DType::bfloat16, 3000, 1)),
        g(DType::float32, numbers(DType::float32, 3000, 2));
    for (const auto& [rule_name, rule] : rule_cases()) {
        for (const auto& [option_name, options] : option_cases()) {
            const Array x = a.copy(), y = a.copy();
            Optimizer one(rule, options), other(rule, options);
            one.build({x.tensor()});
            other.build({y.tensor()});
            other.apply({g.tensor()});
            for (int k = 0; k < 4; ++k) one.apply({g.tensor()});
            std::vector<Tensor> values;
            for (const auto& [name, tensor] : one.state()) values.push_back(tensor);
            other.set_state(values);
            std::memcpy(y.data(), x.data(), 6000);
            for (int k = 0; k < 3; ++k) {
                one.apply({g.tensor()});
                other.apply({g.tensor()});
            }
            const bool same = snapshot(one, std::vector{x.tensor()}) == snapshot(other, std::vector{y.tensor()});
            CHECK_EQUAL(same ? "" : rule_name + ", " + option_name, "");
        }
    }
}

TEST(state_of_matrices_goes_on_bit_for_bit) {
    const Options options{
        .global_clipnorm = 50.0, .use_ema = true, .ema_overwrite_frequency = 2, .gradient_accumulation_steps = 2};
    for (const fusedopt::Rule& rule : {fusedopt::Rule(fusedopt::Adafactor{}),
                                       fusedopt::Rule(fusedopt::Muon{.matrix_product = multiply, .ns_steps = 2})}) {
        for (const DType dtype : all_dtypes) {
            const Shape shape = {30, 40};
            const Array x(dtype, shape, numbers(dtype, 1200, 1));
            const Array g(DType::float32, shape, numbers(DType::float32, 1200, 2));
            Optimizer one(rule, options), other(rule, options);
            one.build({x.tensor()});
            for (int k = 0; k < 5; ++k) one.apply({g.tensor()});
            const Array y = x.copy();
            other.build({y.tensor()});
            std::vector<Tensor> values;
            for (const auto& [name, tensor] : one.state()) values.push_back(tensor);
            other.set_state(values);
            for (int k = 0; k < 3; ++k) {
                one.apply({g.tensor()});
                other.apply({g.tensor()});
            }
            CHECK(snapshot(one, std::vector{x.tensor()}) == snapshot(other, std::vector{y.tensor()}));
        }
    }
}

TEST(optimizers_move) {
    const Array a(DType::float32, numbers(DType::float32, 3000, 1)),
        b = a.copy(), g(DType::float32, numbers(DType::float32, 3000, 2));
    const Options options{.clipnorm = 1.0, .use_ema = true};
    Optimizer still(fusedopt::Adam{}, options), first(fusedopt::Adam{}, options);
    still.build({a.tensor()});
    first.build({b.tensor()});
    still.apply({g.tensor()});
    first.apply({g.tensor()});
    const auto state = first.variables();
    Optimizer second = std::move(first);
    CHECK(second.variables()[3].tensor.data() == state[3].tensor.data());
    still.apply({g.tensor()});
    second.apply({g.tensor()});
    Optimizer third(fusedopt::SGD{});
    third = std::move(second);
    second = Optimizer(fusedopt::SGD{});  // a moved-from optimizer can be given another
    CHECK(!second.built());
    still.apply({g.tensor()});
    third.apply({g.tensor()});
    CHECK(snapshot(still, std::vector{a.tensor()}) == snapshot(third, std::vector{b.tensor()}));
    fusedopt::LossScaleOptimizer scaled(std::move(third), {.initial_scale = 1.0});
    still.apply({g.tensor()});
    scaled.apply({g.tensor()});
    CHECK(snapshot(still, std::vector{a.tensor()}) == snapshot(scaled.inner(), std::vector{b.tensor()}));
}

TEST(nothing_happens_without_gradients) {
    const Array a(DType::float32, Values{1.0});
    Optimizer optimizer(fusedopt::SGD{}, {.use_ema = true});
    optimizer.build({a.tensor()});
    const auto before = snapshot(optimizer, std::vector{a.tensor()});
    optimizer.apply(std::span<const Tensor>());
    CHECK(snapshot(optimizer, std::vector{a.tensor()}) == before);
}

TEST(exceptional_gradients_stay_visible) {
    const double nan = std::nan("");
    const auto after = [](const Options& options, const Values& gradient) {
        const Array a(DType::float32, Values(gradient.size()));
        Optimizer optimizer(fusedopt::SGD{}, options);
        optimizer.build({a.tensor()});
        optimizer.apply({Array(DType::float32, gradient).tensor()});
        return values_of(a.tensor());
    };
    CHECK_EQUAL(
        difference(after({.learning_rate = 1.0, .clipvalue = 2.0}, {HUGE_VAL, nan, -HUGE_VAL, 1}), {-2, nan, 2, -1}),
        "");
    CHECK_EQUAL(difference(after({.learning_rate = 1.0, .clipnorm = 2.0}, {HUGE_VAL, 1, 1}), {nan, 0, 0}), "");
    CHECK_EQUAL(difference(after({.learning_rate = 1.0, .clipnorm = 2.0}, {nan, 1, 1}), {nan, nan, nan}), "");
    CHECK_EQUAL(difference(after({.learning_rate = 1.0, .global_clipnorm = 2.0}, {HUGE_VAL, 1, 1}), {nan, nan, nan}),
                "");
    // A sum of squares beyond float32 is no infinity.
    CHECK_EQUAL(difference(after({.learning_rate = 1.0, .clipnorm = 1.0}, {0x1p127, 0}), {-1, 0}), "");
}

TEST(the_bytes_of_the_state) {
    using fusedopt::Adam, fusedopt::Options, fusedopt::SlotDType;
    const auto bytes = [](const Options& options, DType dtype) {
        const Array variable(dtype, Values(6400, 1.0));
        fusedopt::Optimizer optimizer(Adam{}, options);
        CHECK(optimizer.state_bytes() == 0);
        optimizer.build({variable.tensor()});
        return optimizer.state_bytes();
    };
    CHECK(bytes({}, DType::float32) == 8 * 6400);
    CHECK(bytes({}, DType::float64) == 16 * 6400);
    CHECK(bytes({}, DType::float16) == 12 * 6400);
    CHECK(bytes({.master = false}, DType::float16) == 8 * 6400);
    CHECK(bytes({.use_ema = true, .gradient_accumulation_steps = 2}, DType::float32) == 16 * 6400);
    CHECK(bytes({.slot_dtype = SlotDType::bfloat16}, DType::float32) == 4 * 6400);
    CHECK(bytes({.slot_dtype = SlotDType::float8}, DType::float32) == 2 * (6400 + 2 * 100));
    CHECK(bytes({.row_updates = fusedopt::RowUpdates::caught_up}, DType::float32) >= (8 + 4) * 6400);
}

TEST(the_bytes_of_several) {
    const Array one(DType::float32, Values(10, 1.0)), other(DType::float32, Values(3, 1.0));
    const auto member = [] { return std::make_shared<fusedopt::Optimizer>(fusedopt::Adam{}, fusedopt::Options{}); };
    const auto several = std::make_shared<fusedopt::MultiOptimizer>(std::vector{member(), member()});
    several->build(std::vector{one.tensor(), other.tensor()}, std::vector<std::size_t>{0, 1});
    CHECK(several->state_bytes() == 8 * 13);
    CHECK(fusedopt::LossScaleOptimizer(several).state_bytes() == 8 * 13);
}
