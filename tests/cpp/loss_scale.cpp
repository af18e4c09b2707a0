// Dynamic loss scaling: the same numbers as without it, skipped steps that leave no trace, and a scale that keeps in
// its bounds.
#include <cmath>
#include <limits>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr double smallest_scale = 0x1p-126, largest_scale = 0x1p127;

fusedopt::LossScaleOptimizer make(const fusedopt::Rule& rule, const fusedopt::Options& options, double initial_scale,
                                  std::int64_t growth_steps) {
    return fusedopt::LossScaleOptimizer(fusedopt::Optimizer(rule, options),
                                        {.initial_scale = initial_scale, .dynamic_growth_steps = growth_steps});
}

std::vector<std::byte> snapshot_of_inner(const fusedopt::LossScaleOptimizer& optimizer, const Array& variable) {
    return snapshot(optimizer.inner(), std::vector{variable.tensor()});
}

template <class Inner, class... Assignment>
void check_what_is_asked(const std::shared_ptr<Inner>& inner, const Assignment&... assignment) {
    fusedopt::LossScaleOptimizer outer(inner, {.initial_scale = 4.0});
    const Array variable(DType::float32, numbers(DType::float32, 10, 1));
    const Array gradient(DType::float32, numbers(DType::float32, 10, 2));
    const std::vector variables{variable.tensor()};
    CHECK(!outer.built());
    inner->build(variables, assignment...);
    CHECK(outer.built());
    for (int k = 0; k < 2; ++k) outer.apply({gradient.tensor()});
    CHECK_EQUAL(outer.iterations(), 2);
    CHECK_EQUAL(outer.calls(), 2);
    CHECK(outer.global_norm().has_value());
    CHECK(outer.global_norm() == inner->global_norm());
    outer.set_global_norm({});
    CHECK(!inner->global_norm());
    outer.finalize_variable_values(variables);
    for (const auto& [name, tensor] : outer.variables()) {
        if (name.ends_with("average/0")) CHECK(std::memcmp(tensor.data(), variable.data(), 40) == 0);
    }
}

}  // namespace

TEST(scaled_steps_give_the_bits_of_the_reference) {
    const std::int64_t size = 40000;
    const fusedopt::Options options{
        .global_clipnorm = 100.0, .use_ema = true, .ema_momentum = 0.9, .gradient_accumulation_steps = 2};
    for (const DType dtype : all_dtypes) {
        for (const DType gradient_dtype : all_dtypes) {
            on_every_level_and_thread_count([&](const std::string& where) {
                const Array variable(dtype, numbers(dtype, size, 1));
                fusedopt::LossScaleOptimizer optimizer = make(fusedopt::Adam{}, options, 1024.0, 3);
                optimizer.build({variable.tensor()});
                reference::Optimizer expected(fusedopt::Adam{}, options);
                expected.add(dtype, values_of(variable.tensor()));
                double scale = 1024.0;
                for (unsigned step = 0; step < 7; ++step) {
                    Values values = numbers(gradient_dtype, size, 2 + step);
                    if (step == 4) values[size - 1] = infinity;
                    const Array gradient(gradient_dtype, values);
                    CHECK_EQUAL(optimizer.dynamic_scale(), scale);
                    CHECK_EQUAL(optimizer.apply({gradient.tensor()}), step != 4);
                    if (step != 4) {
                        expected.set_unscale(1.0 / scale);
                        expected.step({{gradient_dtype, values}});
                    }
                    if (step == 2) scale *= 2;
                    if (step == 4) scale /= 2;
                }
                const std::string found =
                    reference::difference(optimizer.inner(), expected, std::vector{variable.tensor()});
                CHECK_EQUAL(found.empty() ? "" : where + ": " + found, "");
            });
        }
    }
}

TEST(a_step_that_is_not_finite_leaves_no_trace) {
    for (const DType dtype : all_dtypes) {
        for (const DType gradient_dtype : all_dtypes) {
            for (const double poison : {infinity, -infinity, std::nan("")}) {
                for (const std::int64_t size : {1, 17, 1024, 3001}) {
                    for (const std::int64_t place : {std::int64_t{0}, size / 2, size - 1}) {
                        const Array variable(dtype, numbers(dtype, size, 1));
                        fusedopt::LossScaleOptimizer optimizer =
                            make(fusedopt::Adam{}, {.use_ema = true, .gradient_accumulation_steps = 2}, 8.0, 1000);
                        optimizer.build({variable.tensor()});
                        Values values = numbers(gradient_dtype, size, 2);
                        optimizer.apply({Array(gradient_dtype, values).tensor()});
                        const auto before = snapshot_of_inner(optimizer, variable);
                        values[static_cast<std::size_t>(place)] = poison;
                        CHECK(!optimizer.apply({Array(gradient_dtype, values).tensor()}));
                        CHECK(snapshot_of_inner(optimizer, variable) == before);
                        CHECK_EQUAL(optimizer.dynamic_scale(), 4.0);
                        CHECK_EQUAL(optimizer.step_counter(), 0);
                        CHECK_EQUAL(optimizer.consecutive_skipped_steps(), 1);
                    }
                }
            }
        }
    }
}

TEST(any_of_many_gradients_can_overflow) {
    std::vector<Array> variables, gradients;
    for (unsigned i = 0; i < 50; ++i) {
        variables.emplace_back(DType::float32, numbers(DType::float32, 700 + i, i));
        gradients.emplace_back(DType::float16, numbers(DType::float16, 700 + i, i));
    }
    on_every_level_and_thread_count([&](const std::string&) {
        fusedopt::LossScaleOptimizer optimizer = make(fusedopt::SGD{}, {}, 8.0, 1000);
        optimizer.build(tensors(variables));
        for (std::size_t i = 0; i < gradients.size(); ++i) {
            std::vector<Tensor> list = tensors(gradients);
            const auto before = snapshot(optimizer.inner(), tensors(variables));
            const Array bad(DType::float16, Values(700 + i, infinity));
            list[i] = bad.tensor();
            CHECK(!optimizer.apply(list));
            CHECK(snapshot(optimizer.inner(), tensors(variables)) == before);
            CHECK(optimizer.apply(tensors(gradients)));
        }
    });
}

// Finite in float64 is finite, though the square is not.
TEST(a_large_double_is_no_overflow) {
    const Array variable(DType::float64, Values{1.0});
    fusedopt::LossScaleOptimizer optimizer = make(fusedopt::SGD{}, {.learning_rate = 1.0}, 2.0, 1000);
    optimizer.build({variable.tensor()});
    CHECK(optimizer.apply({Array(DType::float64, Values{-1e300}).tensor()}));
    CHECK_EQUAL(values_of(variable.tensor())[0], 5e299);
}

TEST(the_scale_keeps_in_its_bounds) {
    const std::int64_t size = 1500;
    for (const DType dtype : all_dtypes) {
        for (const DType gradient_dtype : all_dtypes) {
            const Array good(gradient_dtype, numbers(gradient_dtype, size, 3));
            const Array bad(gradient_dtype, Values(static_cast<std::size_t>(size), infinity));
            for (const double scale : {smallest_scale, largest_scale}) {
                const Array variable(dtype, numbers(dtype, size, 1));
                fusedopt::LossScaleOptimizer optimizer = make(fusedopt::SGD{}, {.learning_rate = 1.0}, scale, 1);
                optimizer.build({variable.tensor()});
                if (scale < 1.0) {
                    optimizer.apply({bad.tensor()});
                } else {
                    optimizer.apply({Array(gradient_dtype, Values(static_cast<std::size_t>(size))).tensor()});
                }
                CHECK_EQUAL(optimizer.dynamic_scale(), scale);
                // Scaled gradients about as large as their dtype allows, or as small as float32 does.
                const double of_largest = gradient_dtype == DType::float16 ? 0x1p14 : 0x1p126;
                Values values = values_of(good.tensor());
                for (double& x : values) x *= scale < 1.0 ? 0x1p-14 : of_largest;
                values = rounded(gradient_dtype, values);
                for (const std::string& level : fusedopt::supported_levels()) {
                    fusedopt::set_level(level);
                    const Array copy = variable.copy();
                    fusedopt::LossScaleOptimizer other = make(fusedopt::SGD{}, {.learning_rate = 1.0}, scale, 1000);
                    other.build({copy.tensor()});
                    reference::Optimizer expected(fusedopt::SGD{}, {.learning_rate = 1.0});
                    expected.add(dtype, values_of(copy.tensor()));
                    expected.set_unscale(1.0 / scale);
                    expected.step({{gradient_dtype, values}});
                    CHECK(other.apply({Array(gradient_dtype, values).tensor()}));
                    CHECK_EQUAL(reference::difference(other.inner(), expected, std::vector{copy.tensor()}), "");
                }
            }
        }
    }
}

TEST(the_scale_grows_and_shrinks_in_powers_of_two) {
    const Array variable(DType::float32, Values{1.0});
    const Array good(DType::float32, Values{0.0}), bad(DType::float32, Values{infinity});
    fusedopt::LossScaleOptimizer optimizer = make(fusedopt::SGD{}, {}, 1.0, 2);
    optimizer.build({variable.tensor()});
    for (int k = 0; k < 300; ++k) optimizer.apply({good.tensor()});
    CHECK_EQUAL(optimizer.dynamic_scale(), largest_scale);
    CHECK_EQUAL(optimizer.inner().iterations(), 300);
    for (int k = 0; k < 300; ++k) optimizer.apply({bad.tensor()});
    CHECK_EQUAL(optimizer.dynamic_scale(), smallest_scale);
    CHECK_EQUAL(optimizer.inner().iterations(), 300);
    CHECK_EQUAL(optimizer.consecutive_skipped_steps(), 300);
    CHECK_EQUAL(optimizer.scale_loss(2.0), 2.0 * smallest_scale);
    CHECK_EQUAL(values_of(variable.tensor())[0], 1.0);
}

TEST(nothing_happens_without_gradients) {
    const Array variable(DType::float32, Values{1.0});
    fusedopt::LossScaleOptimizer optimizer = make(fusedopt::SGD{}, {}, 4.0, 1);
    optimizer.build({variable.tensor()});
    CHECK(optimizer.apply(std::span<const Tensor>()) == true);
    CHECK_REFUSED(optimizer.apply({Tensor()}), "No gradients provided");
    CHECK_EQUAL(optimizer.dynamic_scale(), 4.0);
    CHECK_EQUAL(optimizer.inner().calls(), 0);
}

TEST(scales_out_of_bounds_are_refused) {
    for (const double scale : {0.0, -1.0, 0x1p-127, 0x1p128, infinity, std::nan("")}) {
        CHECK_REFUSED(make(fusedopt::SGD{}, {}, scale, 1), "initial_scale");
    }
    CHECK_REFUSED(make(fusedopt::SGD{}, {}, 1.0, 0), "dynamic_growth_steps");
}

TEST(all_state_moves_to_another_optimizer) {
    const fusedopt::Options options{.use_ema = true, .gradient_accumulation_steps = 2};
    const Array variable(DType::float16, numbers(DType::float16, 100, 1)), copy = variable.copy();
    const Array gradient(DType::float32, numbers(DType::float32, 100, 2));
    fusedopt::LossScaleOptimizer a = make(fusedopt::Adam{}, options, 64.0, 3),
                                 b = make(fusedopt::Adam{}, options, 2.0, 3);
    a.build({variable.tensor()});
    b.build({copy.tensor()});
    for (int k = 0; k < 5; ++k) a.apply({gradient.tensor()});
    const auto state = a.variables();
    const std::int64_t iteration = 3;  // neither is ever used
    const double learning_rate = 0.5;
    std::memcpy(state[0].tensor.data(), &iteration, sizeof(iteration));
    std::memcpy(state[1].tensor.data(), &learning_rate, sizeof(learning_rate));
    const char* const names[] = {"loss_scale/iteration",
                                 "loss_scale/learning_rate",
                                 "loss_scale/step_counter",
                                 "loss_scale/dynamic_scale",
                                 "iteration",
                                 "learning_rate",
                                 "average/0",
                                 "gradient_accumulator/0",
                                 "momentum/0",
                                 "velocity/0"};
    CHECK_EQUAL(state.size(), std::size(names));
    std::vector<Tensor> values;
    for (std::size_t k = 0; k < state.size(); ++k) {
        CHECK_EQUAL(state[k].name, names[k]);
        values.push_back(state[k].tensor);
    }
    b.set_weights(values);
    std::memcpy(copy.data(), variable.data(), 200);
    CHECK_EQUAL(b.dynamic_scale(), 128.0);
    CHECK_EQUAL(b.step_counter(), 2);
    CHECK(snapshot(a, {}) == snapshot(b, {}));
    const auto before = snapshot(b, {});
    const Array short_state(DType::float32, Values(99));
    const Array bad_scale(DType::float32, Shape{}, Values{0.0});
    values.back() = short_state.tensor();
    CHECK_REFUSED(b.set_weights(values), "velocity/0");
    values.back() = state.back().tensor;
    values[3] = bad_scale.tensor();
    CHECK_REFUSED(b.set_weights(values), "dynamic_scale");
    values.pop_back();
    CHECK_REFUSED(b.set_weights(values), "expected 10 arrays");
    CHECK(snapshot(b, {}) == before);
}

TEST(what_is_asked_of_the_wrapper_is_asked_of_what_is_inside) {
    const fusedopt::Options averaged{.use_ema = true};
    fusedopt::Options clipped = averaged;
    clipped.global_clipnorm = 1.0;
    check_what_is_asked(std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{}, clipped));
    const auto member = std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{}, averaged);
    check_what_is_asked(std::make_shared<fusedopt::MultiOptimizer>(std::vector{member}, std::nullopt, 1.0),
                        std::vector<std::size_t>{0});
}
