// Variables of 16 bits without a master copy: rounded at random in each step, and to the nearest where they are read.
#include "low_bit.hpp"

#include <algorithm>
#include <cmath>

#include "row_gradients.hpp"

namespace {

constexpr DType narrow[] = {DType::float16, DType::bfloat16};

bool has_master(const fusedopt::Optimizer& optimizer) {
    return std::ranges::any_of(optimizer.state(), [](const auto& item) { return item.name.starts_with("master/"); });
}

double mean_of(const Array& array) {
    double sum = 0.0;
    const Values values = values_of(array.tensor());
    for (const double x : values) sum += x;
    return sum / static_cast<double>(values.size());
}

}  // namespace

TEST(a_thousand_small_steps_move_a_weight_as_far_as_they_should) {
    for (const DType dtype : narrow) {
        const Array variable(dtype, Values(4096, 1.0)), gradient(DType::float32, Values(4096, 1.0));
        fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1e-4, .master = false});
        optimizer.build({variable.tensor()});
        CHECK(!has_master(optimizer));
        for (int k = 0; k < 1000; ++k) optimizer.apply({gradient.tensor()});
        CHECK(std::abs(mean_of(variable) - 0.9) < 0.002);
    }
}

TEST(every_rule_follows_its_float32_form) {
    for (const RuleCase& rule_case : rule_cases()) {
        for (const DType dtype : narrow) {
            const std::vector<Array> found = arrays_of(dtype, {{40, 30}, {1000}, {0}, {1}}, 1);
            std::vector<Array> expected;
            for (const Array& array : found) {
                const Tensor tensor = array.tensor();
                expected.emplace_back(DType::float32, Shape(tensor.shape().begin(), tensor.shape().end()),
                                      values_of(tensor));
            }
            const Options options{.learning_rate = 0.01, .clipvalue = 1.0, .master = false};
            fusedopt::Optimizer of_narrow(rule_case.rule, options), of_floats(rule_case.rule, options);
            of_narrow.build(tensors(found));
            of_floats.build(tensors(expected));
            for (unsigned k = 0; k < 5; ++k) {
                step(of_narrow, found, 10 * k);
                step(of_floats, expected, 10 * k);
            }
            CHECK(!has_master(of_narrow));
            for (std::size_t i = 0; i < found.size(); ++i) {
                const Values a = values_of(found[i].tensor()), b = values_of(expected[i].tensor());
                double difference = 0.0, error = 0.0;
                for (std::size_t j = 0; j < a.size(); ++j) {
                    difference = std::max(difference, std::abs(a[j] - b[j]));
                    error += a[j] - b[j];
                }
                const std::string who = rule_case.name + ", " + std::string(to_string(dtype));
                CHECK_EQUAL(difference < 0.15 ? "" : who, "");
                if (a.size() > 100) CHECK_EQUAL(std::abs(error) / static_cast<double>(a.size()) < 0.003 ? "" : who, "");
            }
        }
    }
}

TEST(a_variable_without_a_gradient_stays_as_it_is) {
    for (const DType dtype : narrow) {
        const std::vector<Array> variables = arrays_of(dtype, {{3000}, {3000}}, 1);
        const Values before = values_of(variables[0].tensor());
        fusedopt::Optimizer optimizer(fusedopt::Adam{}, {.use_ema = true, .master = false});
        optimizer.build(tensors(variables));
        const Array gradient(DType::float32, numbers(DType::float32, 3000, 9));
        for (int k = 0; k < 5; ++k) optimizer.apply({Tensor(), gradient.tensor()});
        CHECK(values_of(variables[0].tensor()) == before);
    }
}

TEST(what_is_written_into_a_variable_counts) {
    const Array variable(DType::bfloat16, Values(100, 1.0)), gradient(DType::float32, Values(100, 0.0));
    fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.master = false});
    optimizer.build({variable.tensor()});
    optimizer.apply({gradient.tensor()});
    const Array other(DType::bfloat16, numbers(DType::bfloat16, 100, 1));
    std::memcpy(variable.data(), other.data(), 200);
    optimizer.apply({gradient.tensor()});
    CHECK(values_of(variable.tensor()) == values_of(other.tensor()));
}

TEST(averages_are_evaluated_and_kept_to_the_nearest) {
    for (const DType dtype : narrow) {
        const std::vector<Array> variables = arrays_of(dtype, {{2000}, {7}, {0}}, 1);
        fusedopt::Optimizer optimizer(fusedopt::Adam{}, {.use_ema = true, .ema_momentum = 0.5, .master = false});
        optimizer.build(tensors(variables));
        for (unsigned k = 0; k < 5; ++k) step(optimizer, variables, 10 * k);
        const auto bytes_of = [&] { return state_of(optimizer, variables); };
        const auto before = bytes_of();
        optimizer.begin_evaluation();
        const auto evaluated = copies(variables);
        optimizer.end_evaluation();
        CHECK(bytes_of() == before);
        const auto averages = optimizer.variables();
        for (std::size_t i = 0; i < variables.size(); ++i) {
            CHECK_EQUAL(averages[2 + i].name, "average/" + std::to_string(i));
            CHECK(values_of(evaluated[i].tensor()) == rounded(dtype, values_of(averages[2 + i].tensor)));
        }
        optimizer.finalize_variable_values(tensors(variables));
        for (std::size_t i = 0; i < variables.size(); ++i) {
            CHECK(values_of(variables[i].tensor()) == values_of(evaluated[i].tensor()));
        }
    }
}

TEST(a_schedule_free_rule_evaluates_at_x_whatever_its_slots_are) {
    for (const SlotDType slot_dtype : {SlotDType::float32, SlotDType::bfloat16}) {
        for (const DType dtype : {DType::float32, DType::bfloat16}) {
            const std::vector<Array> variables = arrays_of(dtype, {{3000}}, 1);
            const Values before = values_of(variables[0].tensor());
            const Options options = coded(slot_dtype, 1, {.learning_rate = 0.001, .master = false});
            fusedopt::Optimizer optimizer(fusedopt::ScheduleFreeAdamW{}, options);
            optimizer.build(tensors(variables));
            CHECK(distance(values_of(optimizer.variables()[2].tensor), before, 0.004).empty());
            for (unsigned k = 0; k < 5; ++k) step(optimizer, variables, 10 * k);
            optimizer.begin_evaluation();
            const Values x = values_of(variables[0].tensor());
            optimizer.end_evaluation();
            CHECK(distance(x, values_of(variables[0].tensor()), 0.03).empty());
        }
    }
}

TEST(rows_that_catch_up_are_rounded_at_random_too) {
    for (const DType dtype : narrow) {
        const Array table(dtype, Shape{2, 4096}, Values(8192, 1.0));
        const Array values(DType::float32, Shape{1, 4096}, Values(4096, 0.0));
        const std::vector<std::int64_t> first{0}, second{1};
        fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 0.01,
                                                        .weight_decay = 0.005,
                                                        .row_updates = fusedopt::RowUpdates::caught_up,
                                                        .master = false});
        optimizer.build({table.tensor()});
        for (int k = 0; k < 1000; ++k) {
            optimizer.apply({fusedopt::RowGradient{values.tensor(), Tensor(k % 2 == 0 ? first : second)}});
        }
        optimizer.catch_up();
        CHECK(std::abs(mean_of(table) - std::pow(1.0 - 5e-5, 1000)) < 0.002);
    }
}

TEST(loss_scaling_and_several_optimizers_step_as_one_alone) {
    const std::vector<Shape> shapes = {{5000}, {64, 100}};
    const Options options{.slot_dtype = SlotDType::float8, .seed = 11, .master = false};
    const std::vector<Array> alone = arrays_of(DType::bfloat16, shapes, 1),
                             scaled = arrays_of(DType::bfloat16, shapes, 1),
                             together = arrays_of(DType::bfloat16, shapes, 1);
    fusedopt::Optimizer expected(fusedopt::Adam{}, options);
    expected.build(tensors(alone));
    fusedopt::LossScaleOptimizer outer(fusedopt::Optimizer(fusedopt::Adam{}, options), {.initial_scale = 1.0});
    outer.build(tensors(scaled));
    fusedopt::MultiOptimizer multi({std::make_shared<fusedopt::Optimizer>(fusedopt::Adam{}, options)});
    multi.build(tensors(together), std::vector<std::size_t>{0, 0});
    for (unsigned k = 0; k < 4; ++k) {
        step(expected, alone, 10 * k);
        step(outer, scaled, 10 * k);
        step(multi, together, 10 * k);
    }
    const State of_one = state_of(expected, alone), of_scaled = state_of(outer, scaled),
                of_all = state_of(multi, together);
    for (const auto& [name, bytes] : of_one) {
        CHECK(of_scaled.at(name) == bytes);
        CHECK(of_all.at(name.starts_with("variable") ? name : "0/" + name) == bytes);
    }
}
