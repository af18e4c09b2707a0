// NaN and infinity: they show wherever the reference shows them, in the step in which they come and in those after it.
#include <algorithm>
#include <cmath>
#include <limits>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();

/// With a NaN in the middle, at the end and, in step 1, infinities.
Values gradient_of(DType dtype, std::int64_t size, unsigned step) {
    Values values = numbers(dtype, size, 2 + step);
    if (step == 0) values[3] = values.back() = not_a_number;
    if (step == 1) values[5] = infinity;
    if (step == 1) values[6] = -infinity;
    return values;
}

}  // namespace

TEST(nan_and_infinity_show_as_in_the_reference) {
    const std::int64_t size = 1100;
    for (const auto& [name, rule] : rule_cases()) {
        for (const auto& [option, options] : option_cases()) {
            if (options.skip_nonfinite) continue;  // options.cpp tests that nothing changes
            for (const DType dtype : all_dtypes) {
                reference::Optimizer expected(rule, options);
                expected.add(dtype, numbers(dtype, size, 1));
                for (unsigned step = 0; step < 4; ++step) {
                    const Values values = gradient_of(DType::float32, size, step);
                    expected.step({{DType::float32, values}});
                }
                for (const std::string& level : fusedopt::supported_levels()) {
                    fusedopt::set_level(level);
                    const Array variable(dtype, numbers(dtype, size, 1));
                    fusedopt::Optimizer optimizer(rule, options);
                    optimizer.build({variable.tensor()});
                    for (unsigned step = 0; step < 4; ++step) {
                        optimizer.apply({Array(DType::float32, gradient_of(DType::float32, size, step)).tensor()});
                    }
                    const std::string found =
                        reference::difference(optimizer, expected, std::vector{variable.tensor()});
                    CHECK_EQUAL(found.empty() ? "" : name + ", " + option + ", " + level + ": " + found, "");
                }
            }
        }
    }
}

TEST(a_maximum_keeps_a_nan_of_the_state) {
    for (const auto& [rule, slot] :
         {std::pair<fusedopt::Rule, std::string>{fusedopt::Adam{.amsgrad = true}, "velocity_hat/0"},
          {fusedopt::AdamW{.amsgrad = true}, "velocity_hat/0"},
          {fusedopt::Adamax{}, "norm/0"}}) {
        for (const DType dtype : {DType::float32, DType::float64}) {
            for (const std::string& level : fusedopt::supported_levels()) {
                fusedopt::set_level(level);
                const Array variable(dtype, Values(40, 1.0)), gradient(dtype, Values(40, 1.0));
                fusedopt::Optimizer optimizer(rule, {});
                optimizer.build({variable.tensor()});
                for (const auto& [name, tensor] : optimizer.variables()) {
                    if (name != slot) continue;
                    for (const int k : {0, 39}) {
                        if (dtype == DType::float64) {
                            static_cast<double*>(tensor.data())[k] = not_a_number;
                        } else {
                            static_cast<float*>(tensor.data())[k] = static_cast<float>(not_a_number);
                        }
                    }
                }
                for (int k = 0; k < 3; ++k) optimizer.apply({gradient.tensor()});
                const Values values = values_of(variable.tensor());
                for (std::size_t k = 0; k < values.size(); ++k) {
                    CHECK_EQUAL(std::isnan(values[k]), k == 0 || k == 39);
                }
            }
        }
    }
}

TEST(ftrl_holds_still_at_a_rate_of_zero) {
    const fusedopt::Ftrl shrinking{.l1_regularization_strength = 0.05,
                                   .l2_regularization_strength = 0.1,
                                   .l2_shrinkage_regularization_strength = 0.02,
                                   .beta = 0.3};
    for (const fusedopt::Ftrl& rule : {fusedopt::Ftrl{}, fusedopt::Ftrl{.initial_accumulator_value = 0.0}, shrinking,
                                       fusedopt::Ftrl{.learning_rate_power = -0.3}}) {
        for (const DType dtype : all_dtypes) {
            on_every_level_and_thread_count([&](const std::string&) {
                const Array variable(dtype, numbers(dtype, 70, 1));
                fusedopt::Optimizer optimizer(rule, {.learning_rate = 0.1});
                optimizer.build({variable.tensor()});
                optimizer.apply({Array(dtype, numbers(dtype, 70, 2)).tensor()});
                const Values before = values_of(variable.tensor());
                const auto slots = [&] {
                    Values all;
                    for (const auto& [name, tensor] : optimizer.variables()) {
                        if (tensor.rank() == 1) {
                            for (const double x : values_of(tensor)) all.push_back(x);
                        }
                    }
                    return all;
                };
                const Values state = slots();
                // Of the second one the inverse is infinite in double, of the third in float32.
                for (const double rate : {0.0, 1e-310, dtype == DType::float64 ? 0.0 : 1e-40}) {
                    optimizer.set_learning_rate(rate);
                    optimizer.apply({Array(dtype, numbers(dtype, 70, 3)).tensor()});
                    CHECK_EQUAL(difference(values_of(variable.tensor()), before), "");
                    CHECK_EQUAL(difference(slots(), state), "");
                }
                CHECK_EQUAL(optimizer.iterations(), 4);
                Values broken = numbers(dtype, 70, 4);
                broken[2] = not_a_number;
                optimizer.apply({Array(dtype, broken).tensor()});
                CHECK(std::isnan(values_of(variable.tensor())[2]));
                CHECK_EQUAL(values_of(variable.tensor())[3], before[3]);
            });
        }
    }
}

TEST(one_element_of_a_matrix_shows_in_all) {
    const auto all_nan = [](const Values& values) {
        return std::all_of(values.begin(), values.end(), [](double x) { return std::isnan(x); });
    };
    for (const fusedopt::Rule& rule : {fusedopt::Rule(fusedopt::Adafactor{}),
                                       fusedopt::Rule(fusedopt::Muon{.matrix_product = multiply, .ns_steps = 2})}) {
        for (const double bad : {std::nan(""), HUGE_VAL}) {
            for (const Shape& shape : {Shape{20, 30}, Shape{1, 30}, Shape{30, 1}, Shape{30}}) {
                if (std::holds_alternative<fusedopt::Muon>(rule) && shape.size() == 1) continue;  // that is Adam's
                Values values = numbers(DType::float32, count(shape), 2);
                values[5] = bad;
                const Array x(DType::float32, shape, numbers(DType::float32, count(shape), 1));
                fusedopt::Optimizer optimizer(rule);
                optimizer.build({x.tensor()});
                optimizer.apply({Array(DType::float32, shape, values).tensor()});
                CHECK(all_nan(values_of(x.tensor())));
            }
        }
    }
}
