// Slots in 16 and 8 bits as state: what is listed, loaded, kept by a later build, and how much memory it takes.
#include "low_bit.hpp"

#include <algorithm>
#include <cmath>
#include <set>

namespace {

const std::vector<Shape> shapes = {{70, 64}, {5000}, {0}, {65}};

std::vector<Tensor> tensors_of(const std::vector<fusedopt::NamedTensor>& list) {
    std::vector<Tensor> values;
    for (const fusedopt::NamedTensor& item : list) values.push_back(item.tensor);
    return values;
}

const fusedopt::NamedTensor& named(const std::vector<fusedopt::NamedTensor>& list, const std::string& name) {
    return *std::ranges::find(list, name, &fusedopt::NamedTensor::name);
}

/// An optimizer with some steps behind it, and its variables.
struct Trained {
    std::vector<Array> variables;
    fusedopt::Optimizer optimizer;

    Trained(const fusedopt::Rule& rule, const Options& options, DType dtype = DType::float32, unsigned steps = 3)
        : variables(arrays_of(dtype, shapes, 1)), optimizer(rule, options) {
        optimizer.build(tensors(variables));
        for (unsigned k = 0; k < steps; ++k) step(optimizer, variables, 10 * k);
    }

    State state() const { return state_of(optimizer, variables); }
};

/// The number of a code by its definition: the upper bits of a float, moved.
double number_of(unsigned code, unsigned scale, bool is_signed) {
    const auto float_of = [](std::uint32_t bits) {
        float x;
        std::memcpy(&x, &bits, sizeof(x));
        return static_cast<double>(x);
    };
    const std::uint32_t base = (scale & 0xff) << 23, cut = (scale & 0x4000) != 0 ? 19 : 20;
    if (!is_signed) return code == 0 ? 0.0 : float_of((code << cut) + base);
    const double magnitude = float_of(((code & 0x7f) << cut) + base) - float_of(base);
    return (code & 0x80) != 0 ? -magnitude : magnitude;
}

}  // namespace

TEST(state_lists_codes_and_variables_list_numbers) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        const Trained trained(fusedopt::Adam{}, coded(slot_dtype, shapes.size()));
        const auto state = trained.optimizer.state(), copies = trained.optimizer.variables();
        std::set<std::string> names;
        for (const auto& item : state) names.insert(item.name);
        const bool has_scales = slot_dtype == SlotDType::float8;
        CHECK_EQUAL(names.size(), 2 + (has_scales ? 4u : 2u) * shapes.size() + 1);
        CHECK(names.contains("seed"));
        for (std::size_t i = 0; i < shapes.size(); ++i) {
            for (const std::string slot : {"momentum", "velocity"}) {
                const std::string name = slot + "/" + std::to_string(i);
                const fusedopt::NamedTensor& of_codes = named(state, name);
                const fusedopt::NamedTensor& of_numbers = named(copies, name);
                CHECK(!of_codes.memory);
                CHECK(of_numbers.memory);
                CHECK(of_numbers.tensor.dtype() == DType::float32);
                CHECK(std::ranges::equal(of_numbers.tensor.shape(), shapes[i]));
                const Values found = values_of(of_numbers.tensor);
                if (!has_scales) {
                    CHECK(of_codes.tensor.dtype() == DType::bfloat16);
                    CHECK(values_of(of_codes.tensor) == found);
                    continue;
                }
                const fusedopt::NamedTensor& of_scales = named(state, slot + "_scale/" + std::to_string(i));
                CHECK(of_codes.tensor.dtype() == DType::uint8 && of_scales.tensor.dtype() == DType::uint16);
                const std::int64_t blocks = (count(shapes[i]) + 63) / 64;
                CHECK(std::ranges::equal(of_codes.tensor.shape(), Shape{blocks, 64}));
                CHECK(std::ranges::equal(of_scales.tensor.shape(), Shape{blocks}));
                const auto* const bytes = static_cast<const std::uint8_t*>(of_codes.tensor.data());
                const auto* const scales = static_cast<const std::uint16_t*>(of_scales.tensor.data());
                bool is_right = true;
                for (std::size_t k = 0; k < found.size(); ++k) {
                    const std::size_t place = k / 64 * 64 + 4 * (k % 16) + k % 64 / 16;
                    is_right = is_right && found[k] == number_of(bytes[place], scales[k / 64], slot == "momentum");
                }
                CHECK(is_right);
            }
        }
    }
}

TEST(numbers_can_be_loaded_in_the_place_of_codes) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        const Trained source(fusedopt::Adam{}, {}, DType::float32, 5);
        const Options options = coded(slot_dtype, shapes.size());
        Trained by_state(fusedopt::Adam{}, options), by_weights(fusedopt::Adam{}, options);
        const auto numbers = source.optimizer.state();
        std::vector<Tensor> values;
        for (const auto& item : by_state.optimizer.state()) {
            const auto found = std::ranges::find(numbers, item.name, &fusedopt::NamedTensor::name);
            values.push_back(found == numbers.end() ? Tensor() : found->tensor);  // but for scales and the seed
        }
        by_state.optimizer.set_state(values);
        by_weights.optimizer.set_weights(tensors_of(source.optimizer.variables()));
        CHECK_EQUAL(first_difference(state_of(by_state.optimizer, {}), state_of(by_weights.optimizer, {})), "");
        Array wrong(DType::float32, {64, 70}, Values(64 * 70, 0.0));
        for (Tensor& value : values) {
            if (value && value.rank() == 2) value = wrong.tensor();
        }
        const State before = by_state.state();
        CHECK_REFUSED(by_state.optimizer.set_state(values), "expected shape (70, 64)");
        CHECK_EQUAL(first_difference(by_state.state(), before), "");
    }
}

TEST(a_structured_binding_has_the_name_and_the_tensor) {
    Trained trained(fusedopt::Adam{}, coded(SlotDType::float8, shapes.size()), DType::float32, 2);
    auto list = trained.optimizer.variables();
    std::size_t position = 0;
    for (const auto& [name, tensor] : list) {
        CHECK_EQUAL(name, list[position].name);
        CHECK_EQUAL(tensor.data(), list[position++].tensor.data());
    }
    CHECK_EQUAL(position, list.size());
    for (auto& [name, tensor] : list) name += "!";
    CHECK_EQUAL(list[0].name, "iteration!");
    auto [name, tensor] = std::move(list[1]);
    CHECK_EQUAL(name, "learning_rate!");
    CHECK_EQUAL(tensor.size(), 1);
}

TEST(codes_of_loaded_numbers_keep_updates_bounded) {
    const double beta_1 = 0.9, beta_2 = 0.999;
    const double floor = (1.0 - beta_2) * (1.0 - beta_1 * beta_1 / beta_2) / ((1.0 - beta_1) * (1.0 - beta_1));
    const Trained source(fusedopt::Adam{}, {}, DType::float32, 5);
    Trained target(fusedopt::Adam{}, coded(SlotDType::float8, shapes.size()));
    // Of the smallest v that exact arithmetic allows beside each m, in blocks of many binades.
    const auto listed = source.optimizer.variables();
    std::vector<Array> m, v;
    m.reserve(shapes.size());
    v.reserve(shapes.size());
    std::vector<Tensor> values;
    for (const auto& item : listed) {
        const bool is_m = item.name.starts_with("momentum/");
        if (!is_m && !item.name.starts_with("velocity/")) {
            values.push_back(item.tensor);
            continue;
        }
        Values numbers = values_of(item.tensor);
        for (std::size_t i = 0; i < numbers.size(); ++i) {
            const double x =
                std::pow(2.0, -static_cast<double>(i * 7 % 29)) * (1.0 + static_cast<double>(i % 13) / 13.0);
            numbers[i] = is_m ? x : floor * x * x * 1.0001;
        }
        auto& arrays = is_m ? m : v;
        arrays.emplace_back(DType::float32, Shape(item.tensor.shape().begin(), item.tensor.shape().end()), numbers);
        values.push_back(arrays.back().tensor());
    }
    target.optimizer.set_weights(values);
    const auto after = target.optimizer.variables();
    double least = 1e300;
    for (std::size_t i = 0; i < shapes.size(); ++i) {
        const Values small = values_of(named(after, "momentum/" + std::to_string(i)).tensor);
        const Values large = values_of(named(after, "velocity/" + std::to_string(i)).tensor);
        for (std::size_t k = 0; k < small.size(); ++k) {
            if (small[k] != 0.0) least = std::min(least, large[k] / (small[k] * small[k]));
        }
    }
    CHECK(least >= floor);
}

TEST(a_fresh_optimizer_goes_on_from_the_state_with_the_same_bits) {
    for_each_rule_and_slot_dtype([](const std::string& name, const fusedopt::Rule& rule, SlotDType slot_dtype) {
        for (const DType dtype : {DType::float32, DType::bfloat16}) {
            Options options = coded(slot_dtype, shapes.size(), {.use_ema = true, .seed = 5, .master = false});
            Trained trained(rule, options, dtype);
            options.seed = 0;  // it comes with the state
            Trained fresh(rule, options, dtype, 0);
            fresh.optimizer.set_state(tensors_of(trained.optimizer.state()));
            for (std::size_t i = 0; i < shapes.size(); ++i) {
                std::memcpy(fresh.variables[i].data(), trained.variables[i].data(),
                            static_cast<std::size_t>(trained.variables[i].tensor().size_bytes()));
            }
            CHECK_EQUAL(fresh.optimizer.options().seed, 5);
            for (unsigned k = 3; k < 6; ++k) {
                step(trained.optimizer, trained.variables, 10 * k);
                step(fresh.optimizer, fresh.variables, 10 * k);
            }
            const std::string different = first_difference(fresh.state(), trained.state());
            CHECK_EQUAL(different.empty() ? "" : name + ": " + different, "");
        }
    });
}

TEST(numbers_that_are_loaded_get_the_nearest_code) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        // Adam's v may be raised, as it bounds updates.
        const fusedopt::RMSprop rule{.momentum = 0.9};
        Trained trained(rule, coded(slot_dtype, shapes.size(), {.gradient_accumulation_steps = 2}));
        const Trained exact(rule, {.gradient_accumulation_steps = 2}, DType::float32, 4);
        const auto given = exact.optimizer.variables();
        trained.optimizer.set_weights(tensors_of(given));
        const double most = slot_dtype == SlotDType::float8 ? 1.0 / 16 : 1.0 / 256;
        for (const auto& [name, found] : trained.optimizer.variables()) {
            const Values a = values_of(found), b = values_of(named(given, name).tensor);
            const bool is_signed = name.starts_with("momentum");
            for (std::size_t i = 0; i < a.size(); ++i) {
                // Signed codes are denser than that only from a cell above zero on.
                const double cell = is_signed && slot_dtype == SlotDType::float8 ? 2e-4 : 0.0;
                CHECK(std::abs(a[i] - b[i]) <= most * std::abs(b[i]) + cell);
            }
        }
        CHECK_EQUAL(trained.optimizer.calls(), 4);
    }
}

TEST(copies_of_slots_outlive_their_optimizer_and_are_apart_from_it) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        std::vector<fusedopt::NamedTensor> copies;
        Values expected;
        {
            const Trained trained(fusedopt::Adam{}, coded(slot_dtype, shapes.size()));
            const State before = trained.state();
            copies = trained.optimizer.variables();
            expected = values_of(named(copies, "velocity/1").tensor);
            std::memset(named(copies, "momentum/1").tensor.data(), 1, 5000);
            CHECK(trained.state() == before);
        }
        CHECK(values_of(named(copies, "velocity/1").tensor) == expected);
    }
}

TEST(slots_begin_at_the_nearest_code_of_their_first_number) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        const Trained adagrad(fusedopt::Adagrad{.initial_accumulator_value = 0.1}, coded(slot_dtype, shapes.size()),
                              DType::bfloat16, 0);
        const Trained yogi(fusedopt::Yogi{}, coded(slot_dtype, shapes.size()), DType::float32, 0);
        for (const double x : values_of(named(adagrad.optimizer.variables(), "accumulator/3").tensor)) {
            CHECK(std::abs(x - 0.1) < 0.1 / 16);
        }
        for (const std::string name : {"momentum/3", "velocity/1"}) {
            for (const double x : values_of(named(yogi.optimizer.variables(), name).tensor)) {
                CHECK(std::abs(x - 1e-6) < 1e-6 / 16);
            }
        }
    }
}

TEST(a_damaged_state_is_refused_and_changes_nothing) {
    Trained trained(fusedopt::Adam{}, coded(SlotDType::float8, shapes.size()));
    const State before = trained.state();
    const auto state = trained.optimizer.state();
    const auto place = static_cast<std::size_t>(&named(state, "velocity_scale/1") - state.data());
    for (const unsigned scale : {0xc001u, 0x0101u, 0x2001u, 249u, 255u, 0x40fau}) {
        std::vector<std::uint16_t> scales(79, 1);
        scales[78] = static_cast<std::uint16_t>(scale);
        std::vector<Tensor> values(state.size());
        values[0] = Tensor();
        values[place] = Tensor(static_cast<const void*>(scales.data()), DType::uint16, Shape{79});
        CHECK_REFUSED(trained.optimizer.set_state(values), "velocity_scale/1: expected scales as this optimizer");
    }
    const std::int64_t seed = -1;
    std::vector<Tensor> values(state.size());
    values.back() = Tensor(&seed, DType::int64, Shape{});
    CHECK_REFUSED(trained.optimizer.set_state(values), "seed: expected an integer >= 0, found -1");
    CHECK(trained.state() == before);
}

TEST(codes_and_their_scales_are_loaded_together) {
    Trained trained(fusedopt::Adam{}, coded(SlotDType::float8, shapes.size()));
    const State before = trained.state();
    const auto state = trained.optimizer.state();
    const auto place = static_cast<std::size_t>(&named(state, "velocity/1") - state.data());
    const std::vector<std::uint8_t> of_ones(79 * 64, 1);
    const std::vector<std::uint16_t> scales(79, 7);
    const std::vector<float> numbers(5000, 0.5f);
    const Tensor codes_of_ones(of_ones.data(), DType::uint8, Shape{79, 64});
    const Tensor their_scales(scales.data(), DType::uint16, Shape{79});
    std::vector<Tensor> values(state.size());
    values[place] = codes_of_ones;
    CHECK_REFUSED(trained.optimizer.set_state(values), "velocity_scale/1: expected the scales of these codes, found");
    values[place] = Tensor();
    values[place + 1] = their_scales;
    CHECK_REFUSED(trained.optimizer.set_state(values), "velocity_scale/1: expected the codes of these scales, found");
    values[place] = Tensor(numbers);
    CHECK_REFUSED(trained.optimizer.set_state(values), "velocity_scale/1: expected no scales beside numbers, found");
    CHECK(trained.state() == before);
    values[place] = codes_of_ones;
    trained.optimizer.set_state(values);
    CHECK(trained.state() != before);
}

TEST(a_refused_number_is_written_out) {
    Trained trained(fusedopt::Adam{}, coded(SlotDType::float8, shapes.size()));
    const auto state = trained.optimizer.state();
    std::vector<Tensor> values(state.size());
    std::vector<float> numbers(5000, 0.5f);
    numbers[3] = -1e-30f;
    values[static_cast<std::size_t>(&named(state, "velocity/1") - state.data())] = Tensor(numbers);
    CHECK_REFUSED(trained.optimizer.set_state(values), "as this slot of float8 has no sign, found -1e-30 at 3");
}

TEST(codes_of_another_kind_are_refused) {
    const Trained bfloat16(fusedopt::Adam{}, coded(SlotDType::bfloat16, shapes.size()));
    const Trained float32(fusedopt::Adam{}, {});
    Trained float8(fusedopt::Adam{}, coded(SlotDType::float8, shapes.size()));
    const State before = float8.state();
    CHECK_REFUSED(float8.optimizer.set_state(tensors_of(bfloat16.optimizer.state())), "expected");
    CHECK_REFUSED(float8.optimizer.set_state(tensors_of(float32.optimizer.state())), "expected");
    CHECK(float8.state() == before);
}

TEST(building_again_leaves_codes_where_they_are) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        for (const DType dtype : {DType::float32, DType::float16}) {
            Options options{.slot_dtype = slot_dtype, .slot_dtypes = {{"3", slot_dtype}}, .master = false};
            Trained trained(fusedopt::AdamW{.amsgrad = true}, options, dtype);
            const State before = trained.state();
            const auto views = trained.optimizer.state();
            std::vector<Array> all = std::move(trained.variables);
            all.emplace_back(dtype, Shape{80, 64}, numbers(dtype, 80 * 64, 77));
            trained.optimizer.build(tensors(all));
            const State after = state_of(trained.optimizer, all);
            for (const auto& [name, bytes] : before) CHECK(after.at(name) == bytes);
            step(trained.optimizer, all, 5);
            const State later = state_of(trained.optimizer, all);
            for (const auto& [name, tensor] : views) {
                const auto* const bytes = static_cast<const std::byte*>(tensor.data());
                CHECK(std::ranges::equal(later.at(name),
                                         std::span(bytes, static_cast<std::size_t>(tensor.size_bytes()))));
            }
            CHECK(later.at("momentum/0") != before.at("momentum/0"));
            CHECK(later.contains("momentum_scale/4") == (slot_dtype == SlotDType::float8));
        }
    }
}

TEST(amsgrad_can_be_left_and_taken_up_again) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        Trained trained(fusedopt::Adam{.amsgrad = true}, coded(slot_dtype, shapes.size()));
        const State before = trained.state();
        trained.optimizer.set_rule(fusedopt::Adam{});
        step(trained.optimizer, trained.variables, 50);
        const State without = trained.state();
        CHECK(without.at("velocity_hat/0") == before.at("velocity_hat/0"));
        CHECK(without.at("velocity/0") != before.at("velocity/0"));
        trained.optimizer.set_rule(fusedopt::Adam{.amsgrad = true});
        step(trained.optimizer, trained.variables, 60);
        CHECK(trained.state().at("velocity_hat/0") != before.at("velocity_hat/0"));
    }
}

TEST(a_seed_acts_from_the_next_step_on) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        Trained changed(fusedopt::Adam{}, coded(slot_dtype, shapes.size(), {.seed = 1}), DType::float32, 0);
        Trained expected(fusedopt::Adam{}, coded(slot_dtype, shapes.size(), {.seed = 2}), DType::float32, 0);
        Options options = changed.optimizer.options();
        options.seed = 2;
        changed.optimizer.set_options(options);
        for (unsigned k = 0; k < 3; ++k) {
            step(changed.optimizer, changed.variables, k);
            step(expected.optimizer, expected.variables, k);
        }
        CHECK(changed.state() == expected.state());
    }
}

TEST(nothing_hidden_takes_memory) {
    constexpr std::int64_t size = std::int64_t{1} << 20;
    const Array variable(DType::float32, Values(size, 0.0));
    fusedopt::Optimizer optimizer(fusedopt::Adam{}, {.slot_dtype = SlotDType::float8});
    optimizer.build({variable.tensor()});
    std::int64_t bytes = 0;
    for (const auto& item : optimizer.state()) bytes += item.tensor.size_bytes();
    CHECK(static_cast<double>(bytes) < 2.07 * static_cast<double>(size));
}

TEST(wrappers_list_and_load_codes_too) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        const Options options = coded(slot_dtype, 2, {.seed = 4});
        const std::vector<Shape> three = {{100}, {200}, {300}};
        const std::vector<Array> first = arrays_of(DType::bfloat16, three, 1),
                                 second = arrays_of(DType::bfloat16, three, 1);
        const auto build = [&](const std::vector<Array>& variables) {
            auto group = std::make_shared<fusedopt::MultiOptimizer>(std::vector<std::shared_ptr<fusedopt::Optimizer>>{
                std::make_shared<fusedopt::Optimizer>(fusedopt::Adam{}, options),
                std::make_shared<fusedopt::Optimizer>(fusedopt::Lion{}, Options{})});
            group->build(tensors(variables), std::vector<std::size_t>{0, 1, 0},
                         std::vector<std::string>{"0", "x", "1"});
            return fusedopt::LossScaleOptimizer(group, {.initial_scale = 4.0});
        };
        auto trained = build(first), fresh = build(second);
        for (unsigned k = 0; k < 3; ++k) step(trained, first, 10 * k);
        fresh.set_state(tensors_of(trained.state()));
        for (std::size_t i = 0; i < first.size(); ++i) {
            std::memcpy(second[i].data(), first[i].data(), static_cast<std::size_t>(first[i].tensor().size_bytes()));
        }
        for (unsigned k = 3; k < 5; ++k) {
            step(trained, first, 10 * k);
            step(fresh, second, 10 * k);
        }
        CHECK_EQUAL(first_difference(state_of(fresh, second), state_of(trained, first)), "");
        const auto copies = trained.variables();
        CHECK(named(copies, "0/velocity/1").memory);
        fresh.set_weights(tensors_of(copies));
        CHECK(values_of(named(fresh.variables(), "0/velocity/1").tensor).size() == 300);
    }
}
