// Gradients of rows: their rows are updated as the reference does it, bit by bit, and no other element is touched.
#include <algorithm>
#include <cstdint>

#include "array.hpp"
#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"
#include "row_gradients.hpp"

using fusedopt::Gradient;
using fusedopt::LossScaleOptimizer;
using fusedopt::MultiOptimizer;
using fusedopt::Optimizer;
using fusedopt::Options;
using fusedopt::RowGradient;
using fusedopt::Rule;

namespace {

/// A table for each pair of dtypes and each shape, with gradients of rows in some steps: with equal rows, in order, of
/// one row again and again, of no row; and now and then a dense one, or none.
struct Tables {
    std::vector<Array> variables;
    std::vector<std::vector<Rowwise>> gradients;

    Tables(const std::vector<Shape>& shapes, std::size_t steps) : gradients(steps) {
        unsigned seed = 1;
        for (const DType dtype : all_dtypes) {
            for (const DType gradient_dtype : all_dtypes) {
                for (const Shape& shape : shapes) {
                    const std::size_t i = variables.size();
                    variables.emplace_back(dtype, shape, numbers(dtype, count(shape), ++seed));
                    for (std::size_t step = 0; step < steps; ++step) {
                        gradients[step].push_back(gradient(gradient_dtype, shape, (i + step) % 7, ++seed));
                    }
                }
            }
        }
    }

    std::vector<std::string> names() const {
        std::vector<std::string> list;
        for (std::size_t i = 0; i < variables.size(); ++i) list.push_back("embedding_" + std::to_string(i));
        return list;
    }

    static Rowwise gradient(DType dtype, const Shape& shape, std::size_t kind, unsigned seed) {
        switch (kind) {
            case 0:
                return Rowwise(dtype, shape, std::vector<std::int64_t>(5, shape[0] / 2), seed);
            case 1:
                return Rowwise(dtype, shape, {}, seed);
            case 2:
                return Rowwise::dense(dtype, shape, seed);
            case 3:
                return Rowwise();
            case 4:
                return Rowwise(dtype, shape, every_second(shape[0]), seed);
            default:
                return Rowwise(dtype, shape, some_rows(shape[0], 2 * shape[0] + 1, seed), seed);
        }
    }
};

reference::Optimizer solve(const Tables& tables, const Rule& rule, const Options& options) {
    reference::Optimizer expected(rule, options);
    for (const Array& variable : tables.variables) expected.add(variable.dtype(), values_of(variable.tensor()));
    for (const std::vector<Rowwise>& list : tables.gradients) {
        std::vector<reference::Gradient> given;
        for (const Rowwise& gradient : list) given.push_back(gradient.reference());
        expected.step(given);
    }
    return expected;
}

std::vector<Gradient> given(const std::vector<Rowwise>& list) {
    std::vector<Gradient> gradients;
    for (const Rowwise& gradient : list) gradients.push_back(gradient.given());
    return gradients;
}

std::string difference(const Tables& tables, const Rule& rule, const Options& options,
                       const reference::Optimizer& expected) {
    std::vector<Array> variables;
    for (const Array& variable : tables.variables) variables.push_back(variable.copy());
    Optimizer optimizer(rule, options);
    optimizer.build(tensors(variables), tables.names());
    for (const std::vector<Rowwise>& list : tables.gradients) optimizer.apply(given(list));
    if (optimizer.global_norm() != expected.global_norm()) return "another global norm";
    return difference(optimizer, expected, tensors(variables));
}

void check_tables(const std::string& name, const Tables& tables, const Rule& rule, const Options& options) {
    const reference::Optimizer expected = solve(tables, rule, options);
    on_every_level_and_thread_count([&](const std::string& where) {
        const std::string found = difference(tables, rule, options, expected);
        CHECK_EQUAL(found.empty() ? "" : name + ", " + where + ": " + found, "");
    });
}

bool takes_rows(const Rule& rule) {
    return !std::holds_alternative<fusedopt::Lamb>(rule) && !std::holds_alternative<fusedopt::Adafactor>(rule);
}

}  // namespace

TEST(rows_of_every_rule_give_the_bits_of_the_reference) {
    // Enough for three threads.
    const Tables tables({{40}, {30, 17}, {9, 2, 64}, {5, 1030}}, 3);
    for (const auto& [name, rule] : rule_cases()) {
        if (takes_rows(rule)) check_tables(name, tables, rule, {});
    }
}

TEST(rows_under_every_option_give_the_bits_of_the_reference) {
    const Tables tables({{40}, {30, 17}, {200, 64}, {5, 1030}}, 4);
    for (const auto& [name, options] : option_cases()) {
        if (options.gradient_accumulation_steps) continue;
        for (const Rule& rule : {Rule(fusedopt::SGD{.momentum = 0.9}), Rule(fusedopt::AdamW{})}) {
            if (options.weight_decay && std::holds_alternative<fusedopt::AdamW>(rule)) continue;
            check_tables(name, tables, rule, options);
        }
    }
}

TEST(rows_of_all_lengths) {
    std::vector<Shape> shapes;
    for (std::int64_t size = 0; size < 36; ++size) shapes.push_back({11, size});
    const Tables tables(shapes, 3);
    check_tables("Adam", tables, fusedopt::Adam{}, {.clipnorm = 1.0});
}
