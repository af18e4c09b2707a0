// Problems: variables of every dtype and size with gradients of every dtype, for the library and for the reference.
#pragma once

#include <string>
#include <vector>

#include "array.hpp"
#include "cases.hpp"
#include "reference.hpp"

/// One variable for each pair of dtypes and each size, and all gradients of some steps.
struct Problem {
    std::vector<Array> weights;
    std::vector<std::vector<Array>> gradients;  // of each step, of each variable

    Problem(const std::vector<std::int64_t>& sizes, std::size_t steps, Placement placement = Placement::at_end)
        : gradients(steps) {
        unsigned seed = 1;
        for (const DType dtype : all_dtypes) {
            for (const DType gradient_dtype : all_dtypes) {
                for (const std::int64_t size : sizes) {
                    weights.emplace_back(dtype, numbers(dtype, size, seed++), placement);
                    for (std::vector<Array>& list : gradients) {
                        list.emplace_back(gradient_dtype, numbers(gradient_dtype, size, seed++), placement);
                    }
                }
            }
        }
    }

    // In every step some other variables have no gradient.
    bool has_gradient(std::size_t step, std::size_t i) const { return (step + i) % 7 != 3; }
};

inline reference::Optimizer solve(const Problem& problem, const fusedopt::Rule& rule,
                                  const fusedopt::Options& options) {
    reference::Optimizer expected(rule, options);
    for (const Array& weight : problem.weights) expected.add(weight.dtype(), values_of(weight.tensor()));
    for (std::size_t step = 0; step < problem.gradients.size(); ++step) {
        std::vector<reference::Gradient> list;
        for (std::size_t i = 0; i < problem.weights.size(); ++i) {
            const Array& gradient = problem.gradients[step][i];
            list.push_back({gradient.dtype(), std::nullopt});
            if (problem.has_gradient(step, i)) list.back().values = values_of(gradient.tensor());
        }
        expected.step(list);
    }
    return expected;
}

/// Runs the library on the problem and compares all it holds in the end.
inline std::string difference(const Problem& problem, const fusedopt::Rule& rule, const fusedopt::Options& options,
                              const reference::Optimizer& expected) {
    std::vector<Array> weights;
    for (const Array& weight : problem.weights) weights.push_back(weight.copy());
    const std::vector<Tensor> variables = tensors(weights);
    fusedopt::Optimizer optimizer(rule, options);
    optimizer.build(variables);
    for (std::size_t step = 0; step < problem.gradients.size(); ++step) {
        std::vector<Tensor> list(weights.size());
        for (std::size_t i = 0; i < weights.size(); ++i) {
            if (problem.has_gradient(step, i)) list[i] = problem.gradients[step][i].read_only();
        }
        optimizer.apply(list);
    }
    if (optimizer.global_norm() != expected.global_norm()) return "another global norm";
    return difference(optimizer, expected, variables);
}
