// Clipping, averages, accumulation, loss scale: by themselves and together, with every rule.
#include "check.hpp"
#include "matrix.hpp"

TEST(options_give_the_bits_of_the_reference) {
    const Problem problem({1, 1025, 1500}, 7);  // more than 32 Ki elements, so that threads take part
    for (const auto& [rule_name, rule] : rule_cases()) {
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
