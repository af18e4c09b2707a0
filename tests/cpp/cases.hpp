// The cases: every rule with the variants of tests/cases.txt, every option by itself, and the ones that meet inside a
// step.
#pragma once

#include <string>
#include <vector>

#include <fusedopt/fusedopt.hpp>

struct RuleCase {
    std::string name;
    fusedopt::Rule rule;
};

struct OptionCase {
    std::string name;
    fusedopt::Options options;
};

/// A matrix product by its definition, summed in double. It allocates nothing, which a BLAS need not keep to.
void multiply(const fusedopt::Tensor& a, const fusedopt::Tensor& b, const fusedopt::Tensor& product);

/// A product whose factors and sums are rounded to bfloat16, in float32 or in bfloat16; that of float64 stays as it is.
void multiply_rounded(const fusedopt::Tensor& a, const fusedopt::Tensor& b, const fusedopt::Tensor& product);

/// Every rule by default, each followed by its variants.
std::vector<RuleCase> rule_cases();

std::vector<OptionCase> option_cases();

/// The thread counts and levels that every result must not depend on.
inline std::vector<int> thread_counts() {
    return fusedopt::has_threads() ? std::vector{1, 2, 3} : std::vector{1};
}

template <class Body>
void on_every_level(const Body& body) {
    for (const std::string& level : fusedopt::supported_levels()) {
        fusedopt::set_level(level);
        body();
    }
}

template <class Body>
void on_every_level_and_thread_count(const Body& body) {
    on_every_level([&] {
        for (const int threads : thread_counts()) {
            fusedopt::set_num_threads(threads);
            body(std::string(fusedopt::level()) + ", " + std::to_string(threads) + " threads");
        }
    });
    fusedopt::set_num_threads(1);
}
