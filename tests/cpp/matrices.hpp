// Optimizers over variables of any shape: the same bits everywhere, and how close to a formula in double.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "cases.hpp"
#include "check.hpp"

/// What an element must be close to its formula in double by, at the precision that it was computed in.
inline double tolerance_of(DType dtype) {
    return dtype == DType::float64 ? 1e-12 : 1e-5;
}

inline const std::vector<Shape> matrices = {{5, 60}, {60, 5},   {33, 33}, {1, 40}, {40, 1},
                                            {1, 1},  {1500, 3}, {0, 4},   {4, 0}};

/// Variables of these shapes and, for each of some steps, their gradients.
struct Arrays {
    std::vector<Array> variables;
    std::vector<std::vector<Array>> gradients;

    Arrays(const std::vector<Shape>& all, DType dtype, DType gradient_dtype, unsigned steps,
           Placement placement = Placement::at_end)
        : gradients(steps) {
        unsigned seed = 1;
        for (const Shape& shape : all) {
            variables.emplace_back(dtype, shape, numbers(dtype, count(shape), seed++), placement);
            for (std::vector<Array>& list : gradients) {
                list.emplace_back(gradient_dtype, shape, numbers(gradient_dtype, count(shape), seed++), placement);
            }
        }
    }

    /// All bytes of copies of the variables and of their state after all steps.
    std::vector<std::byte> after(const fusedopt::Rule& rule, const fusedopt::Options& options) const {
        std::vector<Array> copies;
        for (const Array& variable : variables) copies.push_back(variable.copy());
        fusedopt::Optimizer optimizer(rule, options);
        optimizer.build(tensors(copies));
        for (const std::vector<Array>& list : gradients) optimizer.apply(tensors(list));
        return snapshot(optimizer, tensors(copies));
    }
};

inline const fusedopt::Options every_phase{
    .global_clipnorm = 50.0, .use_ema = true, .ema_overwrite_frequency = 2, .gradient_accumulation_steps = 2};

inline constexpr Placement at_end[] = {Placement::at_end};

inline void check_every_level_and_thread_count(const std::vector<Shape>& all, const fusedopt::Rule& rule,
                                               std::span<const Placement> placements) {
    for (const DType dtype : all_dtypes) {
        for (const fusedopt::Options& options : {fusedopt::Options{}, every_phase}) {
            std::vector<std::byte> expected;
            for (const Placement placement : placements) {
                const Arrays arrays(all, dtype, dtype == DType::float64 ? DType::float16 : dtype, 4, placement);
                on_every_level_and_thread_count([&](const std::string& where) {
                    // Several threads have no other places than one.
                    if (fusedopt::num_threads() > 1 && placement != placements.front()) return;
                    const std::vector<std::byte> found = arrays.after(rule, options);
                    if (expected.empty()) expected = found;
                    CHECK_EQUAL(found == expected ? "" : where, "");
                });
            }
        }
    }
}
