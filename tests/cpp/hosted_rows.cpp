// Rows of a host's tables: they have the bits of an optimizer that keeps the same state itself.
#include <algorithm>

#include "cases.hpp"
#include "check.hpp"
#include "hosted.hpp"
#include "row_gradients.hpp"

using fusedopt::Gradient;
using fusedopt::HostedGroup;
using fusedopt::HostedOptions;
using fusedopt::HostedStep;
using fusedopt::HostedVariable;
using fusedopt::Optimizer;
using fusedopt::RowGradient;
using fusedopt::Rule;

namespace {

const Shape shapes[] = {{60, 33}, {40}, {7, 1030}, {300, 64}};

std::vector<Array> new_tables() {
    std::vector<Array> tables;
    unsigned seed = 1;
    for (const DType dtype : all_dtypes) {
        for (const Shape& shape : shapes) tables.emplace_back(dtype, shape, numbers(dtype, count(shape), ++seed));
    }
    return tables;
}

Rowwise gradient_of(const Array& table, std::size_t i, std::size_t step) {
    const Tensor tensor = table.tensor();
    const Shape shape(tensor.shape().begin(), tensor.shape().end());
    const auto seed = static_cast<unsigned>(100 * step + i);
    if ((i + step) % 5 == 4) return Rowwise::dense(all_dtypes[i % 4], shape, seed);
    return Rowwise(all_dtypes[(i + 1) % 4], shape, some_rows(shape[0], shape[0], seed), seed);
}

/// What steps make of variables whose state is kept by a host, if `hosts`, or else by an optimizer.
std::vector<Values> after_steps(const Rule& rule, std::size_t slots, bool hosts, std::optional<double> clipnorm) {
    const std::vector<Array> tables = new_tables();
    std::vector<Kept> kept;
    for (const Array& table : tables) kept.emplace_back(table);
    Optimizer optimizer(rule, {.learning_rate = 0.01, .clipnorm = clipnorm, .use_ema = true});
    optimizer.build(tensors(tables));
    HostedStep hosted_step;
    for (std::size_t step = 0; step < 3; ++step) {
        std::vector<Rowwise> gradients;
        for (std::size_t i = 0; i < tables.size(); ++i) gradients.push_back(gradient_of(tables[i], i, step));
        std::vector<Gradient> given;
        for (const Rowwise& gradient : gradients) given.push_back(gradient.given());
        if (!hosts) {
            optimizer.apply(given);
            continue;
        }
        std::vector<HostedVariable> variables;
        for (std::size_t i = 0; i < kept.size(); ++i) {
            variables.push_back(kept[i].hosted(given[i].values, slots));
            variables[i].indices = given[i].indices;
            variables[i].average = kept[i].average.tensor();
            variables[i].step = static_cast<std::int64_t>(step) + 1;
        }
        const HostedGroup group{
            .rule = rule, .learning_rate = 0.01, .ema_momentum = step == 0 ? 0.0 : 0.99, .variables = variables};
        hosted_step.run({&group, 1}, {.clipnorm = clipnorm});
    }
    std::vector<Values> values;
    if (hosts) {
        for (const Kept& one : kept) values.push_back(values_of(one.variable.tensor()));
        for (const Kept& one : kept) values.push_back(values_of(one.average.tensor()));
        return values;
    }
    for (const Array& table : tables) values.push_back(values_of(table.tensor()));
    for (const auto& [name, tensor] : optimizer.variables()) {
        if (name.starts_with("average")) values.push_back(values_of(tensor));
    }
    return values;
}

}  // namespace

TEST(hosted_rows_have_the_bits_of_an_optimizer) {
    const std::pair<Rule, std::size_t> rules[] = {{fusedopt::SGD{}, 0},
                                                  {fusedopt::SGD{.momentum = 0.9, .nesterov = true}, 1},
                                                  {fusedopt::AdamW{}, 2},
                                                  {fusedopt::TorchAdamW{.amsgrad = true}, 3}};
    for (const auto& [rule, slots] : rules) {
        for (const std::optional<double> clipnorm : {std::optional<double>(), std::optional<double>(1.0)}) {
            const std::vector<Values> expected = after_steps(rule, slots, false, clipnorm);
            on_every_level_and_thread_count([&](const std::string& where) {
                CHECK_EQUAL(after_steps(rule, slots, true, clipnorm) == expected ? "" : where, "");
            });
        }
    }
}

// The rows of a step are forgotten with it, and their values may be gone.
TEST(a_dense_step_after_one_with_rows_leaves_the_table_alone) {
    const Kept table(Array(DType::float32, {40, 33}, numbers(DType::float32, 40 * 33, 1)));
    const Kept vector(Array(DType::float32, {70}, numbers(DType::float32, 70, 2)));
    const Array dense(DType::float32, {70}, numbers(DType::float32, 70, 3));
    HostedStep hosted_step;
    const auto run = [&](HostedVariable variable) {
        const HostedGroup group{.rule = fusedopt::SGD{}, .learning_rate = 1.0, .variables = {&variable, 1}};
        hosted_step.run({&group, 1}, {.max_norm = 1.0});
    };
    {
        const Rowwise rows(DType::float32, {40, 33}, some_rows(40, 60, 4), 4);
        HostedVariable variable = table.hosted(rows.given().values, 0);
        variable.indices = rows.indices();
        run(variable);
    }
    const Values of_table = values_of(table.variable.tensor()), of_vector = values_of(vector.variable.tensor());
    run(vector.hosted(dense.tensor(), 0));
    CHECK(values_of(table.variable.tensor()) == of_table);
    CHECK(values_of(vector.variable.tensor()) != of_vector);
}

// Variables of 16 bits without a master copy are rounded at random: by nothing but the seed, the table and the row.
TEST(random_rounding_of_rows) {
    const auto after_step = [&](const std::vector<std::int64_t>& rows, std::uint64_t seed) {
        std::vector<Array> tables;
        std::vector<HostedVariable> variables;
        const auto given = static_cast<std::int64_t>(rows.size());
        const Array values(DType::float32, {given, 64}, Values(static_cast<std::size_t>(given) * 64, 0.001));
        for (int k = 0; k < 2; ++k) tables.emplace_back(DType::bfloat16, Shape{2000, 64}, Values(2000 * 64, 1.0));
        for (const Array& table : tables) {
            variables.push_back({.variable = table.tensor(), .gradient = values.read_only(), .indices = Tensor(rows)});
        }
        const HostedGroup group{.rule = fusedopt::SGD{}, .learning_rate = 1.0, .variables = variables};
        HostedStep step;
        step.run({&group, 1}, {.seed = seed});
        return std::vector{values_of(tables[0].tensor()), values_of(tables[1].tensor())};
    };
    std::vector<std::int64_t> all(2000);
    for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::int64_t>(i);
    const std::vector<Values> expected = after_step(all, 1);
    const auto moved = std::ranges::count_if(expected[0], [](double w) { return w != 1.0; });
    CHECK(moved > 2000 * 64 / 8 && moved < 2000 * 64 / 2);
    CHECK(expected[0] != expected[1]);
    CHECK(Values(expected[0].begin(), expected[0].begin() + 64) !=
          Values(expected[0].begin() + 64, expected[0].begin() + 128));
    CHECK(after_step(all, 2) != expected);
    const std::vector<std::int64_t> backwards(all.rbegin(), all.rend());
    on_every_level_and_thread_count(
        [&](const std::string& where) { CHECK_EQUAL(after_step(backwards, 1) == expected ? "" : where, ""); });
    const std::vector<Values> of_some = after_step({1999, 5}, 1);
    for (std::size_t i = 0; i < 2000 * 64; ++i) {
        const bool is_touched = i / 64 == 5 || i / 64 == 1999;
        if (of_some[0][i] == (is_touched ? expected[0][i] : 1.0)) continue;
        CHECK_EQUAL(i, 2000u * 64);
        break;
    }
}
