// Clipping, averages, accumulation, loss scale: by themselves and together, with every rule.
#include <cmath>

#include "check.hpp"
#include "problem.hpp"

TEST(options_give_the_bits_of_the_reference) {
    const Problem problem({1, 17, 1040}, 7);
    for (const auto& [rule_name, rule] : rule_cases()) {
        for (const auto& [option_name, options] : option_cases()) {
            const reference::Optimizer expected = solve(problem, rule, options);
            for (const std::string& level : fusedopt::supported_levels()) {
                fusedopt::set_level(level);
                const std::string found = difference(problem, rule, options, expected);
                CHECK_EQUAL(found.empty() ? "" : rule_name + ", " + option_name + ", " + level + ": " + found, "");
            }
        }
    }
}

TEST(options_on_threads) {
    const Problem problem({1, 1025, 4100}, 4);  // enough for two threads, whichever have no gradient
    const std::vector<RuleCase> some_rules = {
        {"AdamW amsgrad", fusedopt::AdamW{.amsgrad = true}},
        {"Lamb", fusedopt::Lamb{}},
    };
    for (const auto& [rule_name, rule] : some_rules) {
        for (const auto& [option_name, options] : option_cases()) {
            const std::string name = rule_name + ", " + option_name;
            const reference::Optimizer expected = solve(problem, rule, options);
            on_every_level_and_thread_count([&, &rule = rule, &options = options](const std::string& where) {
                const std::string found = difference(problem, rule, options, expected);
                CHECK_EQUAL(found.empty() ? "" : name + ", " + where + ": " + found, "");
            });
        }
    }
}

TEST(a_step_with_a_gradient_that_is_not_finite_is_skipped) {
    for (const auto& [rule_name, rule] : rule_cases()) {
        for (const auto& [option_name, given] : option_cases()) {
            fusedopt::Options options = given;
            options.skip_nonfinite = true;
            fusedopt::Optimizer optimizer(rule, options);
            const Array variable(DType::float32, Shape{30, 40}, numbers(DType::float32, 1200, 1));
            const std::vector<Tensor> variables = {variable.tensor()};
            optimizer.build(variables);
            const Array good(DType::float32, Shape{30, 40}, numbers(DType::float32, 1200, 2));
            CHECK(optimizer.apply({good.tensor()}));
            const auto calls = optimizer.calls();
            const auto before = values_of(variable.tensor());
            std::int64_t skipped = 0;
            for (const double value : {HUGE_VAL, -HUGE_VAL, std::nan("")}) {
                Values values = numbers(DType::float32, 1200, 2);
                values[1100] = value;
                const Array bad(DType::float32, Shape{30, 40}, values);
                CHECK(!optimizer.apply({bad.tensor()}));
                CHECK(!optimizer.apply(std::vector{bad.tensor()}, variables));
                skipped += 2;
                CHECK_EQUAL(optimizer.skipped_steps(), skipped);
                CHECK_EQUAL(optimizer.calls(), calls);
                CHECK(values_of(variable.tensor()) == before);
            }
        }
    }
}
