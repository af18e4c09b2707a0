// Every rule on every pair of dtypes and every size, at every level, on one to three threads, between guard pages.
#include <numeric>

#include "check.hpp"
#include "matrix.hpp"

TEST(every_rule_has_a_case) {
    for (std::size_t index = 0; index < std::variant_size_v<fusedopt::Rule>; ++index) {
        const auto cases = rule_cases();
        CHECK(std::any_of(cases.begin(), cases.end(), [&](const RuleCase& c) { return c.rule.index() == index; }));
    }
}

namespace {

/// On problems of the same numbers in different places.
void check_rule(const std::string& name, const fusedopt::Rule& rule, const std::vector<Problem>& problems,
                const fusedopt::Options& options) {
    const reference::Optimizer expected = solve(problems[0], rule, options);
    on_every_level_and_thread_count([&](const std::string& where) {
        for (const Problem& problem : problems) {
            const std::string found = difference(problem, rule, options, expected);
            CHECK_EQUAL(found.empty() ? "" : name + ", " + where + ": " + found, "");
        }
    });
}

void check_every_rule(const std::vector<Problem>& problems, const fusedopt::Options& options) {
    for (const auto& [name, rule] : rule_cases()) check_rule(name, rule, problems, options);
}

}  // namespace

TEST(rules_give_the_bits_of_the_reference) {
    std::vector<Problem> problems;
    for (const Placement placement : all_placements) {
        problems.emplace_back(std::vector<std::int64_t>{0, 1, 15, 1023, 1025, 5000}, 3, placement);
    }
    check_every_rule(problems, {});
    check_rule("Ftrl from zero", fusedopt::Ftrl{.initial_accumulator_value = 0.0}, problems, {});
}

// All that can be left of a cache line, and of a row of a norm's sum.
TEST(rules_and_norms_of_few_elements) {
    std::vector<std::int64_t> sizes(33);
    std::iota(sizes.begin(), sizes.end(), 1);
    std::vector<Problem> problems;
    problems.emplace_back(sizes, 2);
    check_every_rule(problems, {.clipnorm = 1.0, .use_ema = true});
}
