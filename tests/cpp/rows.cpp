// Gradients of rows: their rows are updated as the reference does it, bit by bit, and no other element is touched.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>

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

// Each row once, in any order, is the dense step.
TEST(all_rows_are_the_dense_step) {
    const Shape shape = {130, 33};
    for (const auto& [name, rule] : rule_cases()) {
        if (!takes_rows(rule)) continue;
        for (const DType dtype : all_dtypes) {
            const Array by_rows(dtype, shape, numbers(dtype, count(shape), 1)), dense = by_rows.copy();
            Optimizer one(rule, {.clipvalue = 0.7}), other(rule, {.clipvalue = 0.7});
            one.build(std::vector{by_rows.tensor()}, std::vector<std::string>{"embedding"});
            other.build(std::vector{dense.tensor()}, std::vector<std::string>{"embedding"});
            for (unsigned step = 0; step < 3; ++step) {
                const Array gradient(DType::float16, shape, numbers(DType::float16, count(shape), step));
                std::vector<std::int64_t> rows(130);
                for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<std::int64_t>(i * 37 % 130);
                const Array shuffled(DType::float16, shape, {});
                for (std::size_t i = 0; i < rows.size(); ++i) {
                    std::copy_n(gradient.data() + rows[i] * 66, 66, shuffled.data() + i * 66);
                }
                one.apply({RowGradient{shuffled.read_only(), Tensor(rows)}});
                other.apply({gradient.read_only()});
            }
            CHECK_EQUAL(snapshot(one, std::vector{by_rows.tensor()}) == snapshot(other, std::vector{dense.tensor()})
                            ? ""
                            : name,
                        "");
        }
    }
}

namespace {

/// What a step of Adam with this gradient makes of a table.
std::vector<std::byte> after_step(const RowGradient& gradient) {
    const Array table(DType::float32, {50, 2, 3}, numbers(DType::float32, 300, 1));
    Optimizer optimizer(fusedopt::Adam{}, {.clipnorm = 0.5});
    optimizer.build({table.tensor()});
    for (int k = 0; k < 2; ++k) optimizer.apply({gradient});
    return snapshot(optimizer, std::vector{table.tensor()});
}

}  // namespace

TEST(values_and_indices_in_any_layout) {
    const std::vector<std::int64_t> rows = some_rows(50, 20, 5);
    const Array values(DType::float32, {20, 2, 3}, numbers(DType::float32, 120, 2));
    const std::vector<std::byte> expected = after_step({values.read_only(), Tensor(rows)});
    const auto* const from = reinterpret_cast<const float*>(values.data());

    std::vector<float> fortran(120), backwards(120), apart(240);
    std::vector<std::byte> misaligned(1 + sizeof(float) * 120), misaligned_indices(1 + sizeof(std::int64_t) * 20);
    std::vector<std::int32_t> indices_backwards(20), indices_apart(60, 77);
    for (std::size_t k = 0; k < 20; ++k) {
        indices_backwards[19 - k] = static_cast<std::int32_t>(rows[k]);
        indices_apart[3 * k] = static_cast<std::int32_t>(rows[k]);
        for (std::size_t i = 0; i < 6; ++i) {
            fortran[k + 20 * (i / 3) + 40 * (i % 3)] = from[6 * k + i];
            backwards[6 * (19 - k) + i] = from[6 * k + i];
            apart[12 * k + i] = from[6 * k + i];
        }
    }
    std::memcpy(misaligned.data() + 1, from, sizeof(float) * 120);
    std::memcpy(misaligned_indices.data() + 1, rows.data(), sizeof(std::int64_t) * 20);

    const auto view = [](const void* data, const Shape& strides) {
        return Tensor(data, DType::float32, Shape{20, 2, 3}, strides);
    };
    const Tensor indices(rows);
    CHECK(after_step({view(fortran.data(), {4, 80, 160}), indices}) == expected);
    CHECK(after_step({view(&backwards[114], {-24, 12, 4}), indices}) == expected);
    CHECK(after_step({view(apart.data(), {48, 12, 4}), indices}) == expected);
    CHECK(after_step({view(misaligned.data() + 1, {24, 12, 4}), indices}) == expected);
    CHECK(after_step({values.read_only(), Tensor(static_cast<const void*>(misaligned_indices.data() + 1), DType::int64,
                                                 Shape{20})}) == expected);
    CHECK(after_step({values.read_only(), Tensor(static_cast<const void*>(&indices_backwards[19]), DType::int32,
                                                 Shape{20}, Shape{-4})}) == expected);
    CHECK(after_step({values.read_only(), Tensor(static_cast<const void*>(indices_apart.data()), DType::int32,
                                                 Shape{20}, Shape{12})}) == expected);
}

// More keys than one digit, or one thread, takes.
TEST(many_rows_in_any_order) {
    const std::int64_t size = 300000;
    const Array start(DType::float32, {size}, numbers(DType::float32, size, 1));
    std::vector<std::vector<std::int64_t>> orders = {some_rows(size, 400000, 1), some_rows(size, 200000, 2),
                                                     some_rows(3, 100000, 3), every_second(size)};
    orders.emplace_back(orders[3].rbegin(), orders[3].rend());
    for (const std::vector<std::int64_t>& rows : orders) {
        const auto given = static_cast<std::int64_t>(rows.size());
        const Array values(DType::float32, {given}, numbers(DType::float32, given, 4));
        reference::Optimizer expected(fusedopt::SGD{}, {.clipnorm = 1.0});
        expected.add(DType::float32, values_of(start.tensor()));
        expected.step({{DType::float32, values_of(values.tensor()), rows, 1}});
        for (const int threads : thread_counts()) {
            fusedopt::set_num_threads(threads);
            const Array table = start.copy();
            Optimizer optimizer(fusedopt::SGD{}, {.clipnorm = 1.0});
            optimizer.build({table.tensor()});
            optimizer.apply({RowGradient{values.read_only(), Tensor(rows)}});
            CHECK_EQUAL(difference(optimizer, expected, std::vector{table.tensor()}), "");
        }
    }
    fusedopt::set_num_threads(1);
}

namespace {

/// A table, a matrix and a gradient of each.
struct Pair {
    Array table{DType::float32, {40, 5}, numbers(DType::float32, 200, 1)};
    Array matrix{DType::float32, {6, 7}, numbers(DType::float32, 42, 2)};
    Array values, dense{DType::float32, {6, 7}, numbers(DType::float32, 42, 4)};
    std::vector<std::int64_t> rows = some_rows(40, 30, 6);

    explicit Pair(double factor = 1.0) : values(DType::float32, Shape{30, 5}, {}) {
        Values scaled = numbers(DType::float32, 150, 3);
        for (double& x : scaled) x *= factor;
        values.set(scaled);
        Values of_dense = values_of(dense.tensor());
        for (double& x : of_dense) x *= factor;
        dense.set(of_dense);
    }

    std::vector<Tensor> variables() const { return {table.tensor(), matrix.tensor()}; }
    std::vector<Gradient> gradients() const {
        return {RowGradient{values.read_only(), Tensor(rows)}, dense.read_only()};
    }
};

}  // namespace

TEST(wrappers_step_rows_as_one_optimizer_does) {
    const Options options{.global_clipnorm = 1.0};
    const Pair alone, together, chosen, scaled(1024.0);
    Optimizer expected(fusedopt::AdamW{}, options);
    expected.build(alone.variables());
    MultiOptimizer multi(
        {std::make_shared<Optimizer>(fusedopt::AdamW{}), std::make_shared<Optimizer>(fusedopt::AdamW{})}, std::nullopt,
        1.0);
    multi.build(together.variables(), std::vector<std::size_t>{1, 0});
    Optimizer backwards(fusedopt::AdamW{}, options);
    backwards.build(chosen.variables());
    LossScaleOptimizer scaling(Optimizer(fusedopt::AdamW{}, options), {.initial_scale = 1024.0});
    scaling.build(scaled.variables());
    for (int k = 0; k < 3; ++k) {
        CHECK(expected.apply(alone.gradients()));
        CHECK(multi.apply(together.gradients()));
        const std::vector<Gradient> gradients = chosen.gradients();
        CHECK(backwards.apply(std::vector{gradients[1], gradients[0]},
                              std::vector{chosen.matrix.tensor(), chosen.table.tensor()}));
        CHECK(scaling.apply(scaled.gradients()));
    }
    for (const Pair* pair : {&together, &chosen, &scaled}) {
        CHECK(values_of(pair->table.tensor()) == values_of(alone.table.tensor()));
        CHECK(values_of(pair->matrix.tensor()) == values_of(alone.matrix.tensor()));
    }
    CHECK(multi.global_norm() == expected.global_norm());
}

// Two finite numbers may have a sum that is not.
TEST(an_overflow_in_rows_skips_the_whole_step) {
    for (const double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN(), 3e38}) {
        Pair pair;
        Values values = values_of(pair.values.tensor());
        values[0] = values[5] = bad;
        pair.values.set(values);
        std::vector<std::int64_t> rows = pair.rows;
        rows[0] = rows[1] = 7;
        const std::vector<Gradient> gradients = {RowGradient{pair.values.read_only(), Tensor(rows)},
                                                 pair.dense.read_only()};
        Optimizer optimizer(fusedopt::Adam{}, {.skip_nonfinite = true});
        optimizer.build(pair.variables());
        const auto before = snapshot(optimizer, pair.variables());
        CHECK(!optimizer.apply(gradients));
        CHECK(snapshot(optimizer, pair.variables()) == before);
        CHECK_EQUAL(optimizer.skipped_steps(), 1);
        LossScaleOptimizer scaling(std::move(optimizer));
        CHECK(!scaling.apply(gradients));
        CHECK(snapshot(scaling.inner(), pair.variables()) == before);
        const Pair fine;
        CHECK(scaling.apply(fine.gradients()));
    }
}
