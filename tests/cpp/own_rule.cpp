// A rule of the program's own: the same formula as a rule of the library's gives its bits, whatever the options, and
// what it cannot do is refused.
#include <algorithm>
#include <cmath>
#include <memory>
#include <stdexcept>

#include "check.hpp"
#include "hosted.hpp"
#include "low_bit.hpp"
#include "own_rules.hpp"
#include "problem.hpp"
#include "row_gradients.hpp"

namespace {

using fusedopt::Optimizer;

/// Two rules that should do the same to the same variables.
void check_equal(const std::string& where, const fusedopt::Rule& own, const fusedopt::Rule& built_in,
                 const Options& options) {
    const std::vector<Array> found = new_variables(), expected = new_variables();
    Optimizer a(own, options), b(built_in, options);
    a.build(tensors(found));
    b.build(tensors(expected));
    std::vector<std::string> names = names_of(a), expected_names = names_of(b);
    std::ranges::sort(names);  // Keras has AMSGrad's slots behind all others
    std::ranges::sort(expected_names);
    CHECK(names == expected_names);
    check_equal_steps(where, a, found, b, expected);
}

struct Throwing {
    bool throws = false;

    static constexpr const char* name = "Throwing";
    static constexpr double learning_rate = 0.5;
    static constexpr OwnRule::Slot slots[] = {{.name = "start", .copies_variable = true},
                                              {.name = "count", .initial = 3.0}};
    static constexpr auto fields() { return std::tuple(fusedopt::Field("throws", &Throwing::throws)); }

    template <class T>
    struct Formula {
        void operator()(T& w, T, T& start, T& count) const {
            w = start + count;
            count = count + 1;
        }
    };

    Formula<double> formula(const OwnRule::Now&) const {
        if (throws) throw std::runtime_error("as told");
        return {};
    }
};

struct SameSlots {
    static constexpr const char* name = "SameSlots";
    static constexpr double learning_rate = 0.5;
    static constexpr OwnRule::Slot slots[] = {{.name = "m"}, {.name = "m"}};

    template <class T>
    struct Formula {
        void operator()(T&, T, T&, T&) const {}
    };

    Formula<double> formula(const OwnRule::Now&) const { return {}; }
};

}  // namespace

TEST(an_own_rule_gives_the_bits_of_the_librarys_under_every_option) {
    const Problem problem({0, 1, 17, 1040}, 7);
    for (const auto& [name, own, built_in] : own_rules) {
        for (const auto& [option_name, options] : option_cases()) {
            const reference::Optimizer expected = solve(problem, built_in, options);
            on_every_level([&, &own = own, &options = options, &name = name, &option_name = option_name] {
                const std::string found = difference(problem, own, options, expected);
                CHECK_EQUAL(found.empty() ? "" : std::string(name) + ", " + option_name + ": " + found, "");
            });
        }
    }
}

TEST(on_threads_too) {
    const Problem problem({1, 1025, 4100}, 3);  // enough for two threads, whichever have no gradient
    for (const auto& [name, own, built_in] : own_rules) {
        for (const Options& options : {Options{}, Options{.weight_decay = 0.1, .clipvalue = 0.5, .use_ema = true}}) {
            const reference::Optimizer expected = solve(problem, built_in, options);
            on_every_level_and_thread_count([&, &own = own, &options = options](const std::string& where) {
                CHECK_EQUAL(difference(problem, own, options, expected) + where, where);
            });
        }
    }
}

TEST(in_sixteen_and_eight_bits_too) {
    const std::vector<Shape> shapes = {{70, 64}, {4097}, {63}, {0}, {2, 1024}};
    for (const auto& [name, own, built_in] : own_rules) {
        for (const SlotDType slot_dtype : coded_dtypes) {
            if (slot_dtype == SlotDType::float8 && !has_float8(own)) continue;
            for (const DType dtype : {DType::float32, DType::bfloat16, DType::float64}) {
                for (const bool master : {true, false}) {
                    Options options{.use_ema = true, .ema_overwrite_frequency = 2, .seed = 7, .master = master};
                    options = coded(slot_dtype, shapes.size(), options);
                    const State expected = after_steps(built_in, options, dtype, shapes);
                    check_same_everywhere(name, [&] { return after_steps(own, options, dtype, shapes); });
                    CHECK_EQUAL(first_difference(after_steps(own, options, dtype, shapes), expected), "");
                }
            }
        }
    }
    CHECK(has_float8(OwnLion{}));
    CHECK_REFUSED(Optimizer(OwnAdam{}, {.slot_dtype = SlotDType::float8}), "only if it says that it allows them");
}

TEST(rows_are_small_variables) {
    const Shape shape{40, 24};
    for (const auto& [name, own, built_in] : own_rules) {
        for (const DType dtype : all_dtypes) {
            on_every_level_and_thread_count([&, &own = own, &built_in = built_in](const std::string& where) {
                const Array found(dtype, shape, numbers(dtype, count(shape), 1)), expected = found.copy();
                const Options options{.weight_decay = 0.1, .clipvalue = 1.0, .use_ema = true};
                Optimizer a(own, options), b(built_in, options);
                a.build({found.tensor()});
                b.build({expected.tensor()});
                for (unsigned step = 0; step < 4; ++step) {
                    const Rowwise gradient(dtype, shape, some_rows(40, 30, step), 5 * step + 1);
                    a.apply({gradient.given()});
                    b.apply({gradient.given()});
                }
                CHECK_EQUAL(difference(values_of(found.tensor()), values_of(expected.tensor())) + where, where);
                CHECK(snapshot(a, std::vector{found.tensor()}) == snapshot(b, std::vector{expected.tensor()}));
            });
        }
    }
    CHECK_REFUSED(Optimizer(OwnLion{}, {.row_updates = fusedopt::RowUpdates::caught_up}),
                  "what a gradient of zero does to a row is not known of a rule of one's own");
}

TEST(wrappers_step_it) {
    const auto run = [](const fusedopt::Rule& rule) {
        const std::vector<Array> variables = new_variables();
        auto first = std::make_shared<Optimizer>(rule, Options{.use_ema = true});
        auto second = std::make_shared<Optimizer>(fusedopt::AdamW{});
        auto multi = std::make_shared<fusedopt::MultiOptimizer>(std::vector{first, second}, std::nullopt, 1.0);
        multi->build(tensors(variables), std::vector<std::size_t>{0, 1, 0, 0});
        fusedopt::LossScaleOptimizer optimizer(multi, {.initial_scale = 8.0});
        for (unsigned k = 0; k < 3; ++k) step(optimizer, variables, 1000 * k);
        return state_of(optimizer, variables);
    };
    for (const auto& [name, own, built_in] : own_rules) CHECK(run(own) == run(built_in));
}

TEST(a_host_steps_it) {
    for (const auto& [name, own, built_in] : own_rules) {
        const auto run = [](const fusedopt::Rule& rule, std::size_t slot_count) {
            std::vector<Kept> kept;
            for (const Array& variable : new_variables()) kept.emplace_back(variable);
            const std::vector<Array> gradients = new_variables();
            fusedopt::HostedStep stepper;
            for (std::int64_t k = 1; k <= 3; ++k) {
                std::vector<fusedopt::HostedVariable> variables;
                for (std::size_t i = 0; i < kept.size(); ++i) {
                    variables.push_back(kept[i].hosted(gradients[i].read_only(), slot_count));
                    variables.back().step = k;
                }
                const fusedopt::HostedGroup group{.rule = rule, .weight_decay = 0.1, .variables = variables};
                stepper.run({&group, 1}, {.max_norm = 1.0});
            }
            return bytes_of(kept);
        };
        const std::size_t slot_count = std::get<OwnRule>(own).slots().size();
        CHECK(run(own, slot_count) == run(built_in, slot_count));
    }
}

TEST(its_state_is_listed_and_goes_on) {
    for (const auto& [name, own, built_in] : own_rules) {
        for (const auto& [option_name, options] : option_cases()) {
            check_equal(std::string(name) + ", " + option_name, own, built_in, options);
        }
        const std::vector<Array> variables = new_variables();
        Optimizer optimizer(own);
        optimizer.build(tensors(variables));
        step(optimizer, variables, 1);
        const std::vector<Array> others = copies(variables);
        Optimizer other(own);
        other.build(tensors(others));
        load(other, optimizer);
        check_equal_steps(name, other, others, optimizer, variables);
    }
    const Array variable(DType::float32, Values{1.0, 2.0});
    Optimizer optimizer(Throwing{});
    optimizer.build({variable.tensor()});
    optimizer.apply({Array(DType::float32, Values{0.0, 0.0}).tensor()});
    CHECK(values_of(variable.tensor()) == (Values{4.0, 5.0}));
    optimizer.apply({Array(DType::float32, Values{0.0, 0.0}).tensor()});
    CHECK(values_of(variable.tensor()) == (Values{5.0, 6.0}));
}

TEST(own_rules_are_compared) {
    CHECK(OwnRule(OwnLion{}) == OwnRule(OwnLion{}));
    CHECK(OwnRule(OwnLion{}) != OwnRule(OwnLion{.beta_1 = 0.5}));
    CHECK(OwnRule(OwnLion{}) != OwnRule(OwnSgd{}));
    CHECK(OwnRule(OwnSgd{}) == OwnRule(OwnSgd{}));
}

TEST(hyperparameters_are_its_own) {
    CHECK_EQUAL(Optimizer(OwnSgd{}).learning_rate(), 0.01);
    CHECK_REFUSED(Optimizer(OwnLion{.beta_2 = 1.0}), "beta_2: expected a number in [0, 1), found 1");
    CHECK_REFUSED(Optimizer(OwnAdam{.warmup_steps = -1}), "warmup_steps: expected an integer >= 0, found -1");
    CHECK_REFUSED(Optimizer(SameSlots{}), "SameSlots: expected a name of its own for each slot, found 'm' twice");
    const std::vector<Array> found = new_variables(), expected = new_variables();
    Optimizer own(OwnLion{}), built_in(fusedopt::Lion{});
    own.build(tensors(found));
    built_in.build(tensors(expected));
    step(own, found, 1);
    step(built_in, expected, 1);
    own.set_rule(OwnLion{.beta_1 = 0.5});
    built_in.set_rule(fusedopt::Lion{.beta_1 = 0.5});
    const fusedopt::Rule now = own.rule();
    CHECK_EQUAL(std::get<OwnRule>(now).get_if<OwnLion>()->beta_1, 0.5);
    CHECK(std::get<OwnRule>(now).get_if<OwnSgd>() == nullptr);
    check_equal_steps("set_rule", own, found, built_in, expected);
    CHECK_REFUSED(own.set_rule(OwnSgd{}), "set_rule: expected hyperparameters of OwnLion, found those of OwnSgd");
    CHECK_REFUSED(own.set_rule(fusedopt::Lion{}), "expected hyperparameters of OwnLion, found those of Lion");
    CHECK_REFUSED(built_in.set_rule(OwnLion{}), "expected hyperparameters of Lion, found those of OwnLion");
    CHECK_REFUSED(own.set_rule(OwnLion{.beta_2 = -1.0}), "beta_2: expected a number in [0, 1), found -1");
}

TEST(what_its_scalars_throw_leaves_everything_as_it_was) {
    const std::vector<Array> variables = new_variables();
    Optimizer optimizer(Throwing{}, {.use_ema = true});
    optimizer.build(tensors(variables));
    step(optimizer, variables, 1);
    optimizer.set_rule(Throwing{.throws = true});
    const auto before = state_of(optimizer, variables);
    std::string message;
    try {
        step(optimizer, variables, 2);
    } catch (const std::runtime_error& error) {
        message = error.what();
    }
    CHECK_EQUAL(message, "as told");
    CHECK(state_of(optimizer, variables) == before);
    optimizer.set_rule(Throwing{});
    step(optimizer, variables, 2);
    CHECK_EQUAL(optimizer.iterations(), 2);
}
