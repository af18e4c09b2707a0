// Every rule on every pair of dtypes and every size, at every level, on one to three threads, between guard pages.
#include <algorithm>
#include <numeric>

#include "check.hpp"
#include "problem.hpp"

TEST(every_rule_has_a_case) {
    const std::size_t count = std::variant_size_v<fusedopt::Rule> - 1;  // the last one is the program's own
    for (std::size_t index = 0; index < count; ++index) {
        const auto cases = rule_cases();
        CHECK(std::any_of(cases.begin(), cases.end(), [&](const RuleCase& c) { return c.rule.index() == index; }));
    }
}

namespace {

/// On problems of the same numbers in different places.
void check_rule(const std::string& name, const fusedopt::Rule& rule, const std::vector<Problem>& problems) {
    const reference::Optimizer expected = solve(problems[0], rule, {});
    on_every_level_and_thread_count([&](const std::string& where) {
        // Several threads have no other places than one.
        const std::size_t places = fusedopt::num_threads() == 1 ? problems.size() : 1;
        for (std::size_t i = 0; i < places; ++i) {
            const std::string found = difference(problems[i], rule, {}, expected);
            CHECK_EQUAL(found.empty() ? "" : name + ", " + where + ": " + found, "");
        }
    });
}

}  // namespace

TEST(rules_give_the_bits_of_the_reference) {
    std::vector<Problem> problems;
    for (const Placement placement : all_placements) {
        // Enough for three threads, whichever have no gradient.
        problems.emplace_back(std::vector<std::int64_t>{0, 1, 15, 1023, 1025, 5600}, 3, placement);
    }
    for (const auto& [name, rule] : rule_cases()) check_rule(name, rule, problems);
    check_rule("Ftrl from zero", fusedopt::Ftrl{.initial_accumulator_value = 0.0}, problems);
}

// All that can be left of a cache line, and of a row of a norm's sum. Too few for a second thread.
TEST(rules_and_norms_of_few_elements) {
    std::vector<std::int64_t> sizes(33);
    std::iota(sizes.begin(), sizes.end(), 1);
    const Problem problem(sizes, 2);
    const fusedopt::Options options{.clipnorm = 1.0, .use_ema = true};
    for (const auto& [name, rule] : rule_cases()) {
        const reference::Optimizer expected = solve(problem, rule, options);
        for (const std::string& level : fusedopt::supported_levels()) {
            fusedopt::set_level(level);
            const std::string found = difference(problem, rule, options, expected);
            CHECK_EQUAL(found.empty() ? "" : name + ", " + level + ": " + found, "");
        }
    }
}
