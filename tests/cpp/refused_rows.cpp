// A gradient of rows that does not fit is refused with a message that says why, before a single byte has changed.
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "array.hpp"
#include "cases.hpp"
#include "check.hpp"
#include "hosted.hpp"

using fusedopt::Gradient;
using fusedopt::HostedGroup;
using fusedopt::HostedStep;
using fusedopt::HostedVariable;
using fusedopt::LossScaleOptimizer;
using fusedopt::MultiOptimizer;
using fusedopt::Optimizer;
using fusedopt::Options;
using fusedopt::RowGradient;
using fusedopt::Rule;

namespace {

const std::vector<std::int64_t> good = {3, 0, 3};

/// A table of 10 rows of 2 and a matrix, in an optimizer and in what wraps it.
struct Built {
    Array table{DType::float32, {10, 2}, numbers(DType::float32, 20, 1)};
    Array matrix{DType::float32, {3, 2}, numbers(DType::float32, 6, 2)};
    Array dense{DType::float32, {3, 2}, numbers(DType::float32, 6, 3)};
    Array values{DType::float32, {3, 2}, numbers(DType::float32, 6, 4)};
    std::vector<std::string> names = {"embedding", "kernel"};

    std::vector<Tensor> variables() const { return {table.tensor(), matrix.tensor()}; }

    template <class AnyOptimizer>
    void check_refused(AnyOptimizer& optimizer, const Gradient& gradient, const std::string& part) const {
        const auto before = snapshot(optimizer, variables());
        CHECK_REFUSED(optimizer.apply({gradient, dense.read_only()}), part);
        CHECK(snapshot(optimizer, variables()) == before);
    }

    void refuse(const Gradient& gradient, const std::string& part) const {
        Optimizer optimizer(fusedopt::Adam{});
        optimizer.build(variables(), names);
        check_refused(optimizer, gradient, part);
        MultiOptimizer multi(
            {std::make_shared<Optimizer>(fusedopt::Adam{}), std::make_shared<Optimizer>(fusedopt::SGD{})});
        multi.build(variables(), std::vector<std::size_t>{0, 1}, names);
        check_refused(multi, gradient, part);
        LossScaleOptimizer scaled(std::move(optimizer));
        check_refused(scaled, gradient, part);
        optimizer = Optimizer(fusedopt::Adam{});
    }
};

template <class Index>
Tensor view(const std::vector<Index>& indices, const Shape& shape) {
    return Tensor(static_cast<const void*>(indices.data()), Tensor(indices).dtype(), shape);
}

}  // namespace

TEST(indices_that_are_no_rows) {
    const Built built;
    const auto refuse = [&](std::vector<std::int64_t> rows, const std::string& part) {
        built.refuse(RowGradient{built.values.read_only(), Tensor(rows)}, part);
        const std::vector<std::int32_t> narrow(rows.begin(), rows.end());
        built.refuse(RowGradient{built.values.read_only(), Tensor(narrow)}, part);
    };
    refuse({0, 9, 10},
           "gradient of variable 0 ('embedding'): expected row indices from 0 to 9, the variable having 10 rows, "
           "found 10 at position 2");
    refuse({0, -1, 12}, "found -1 at position 1");
    refuse({-2147483648, 0, 0}, "found -2147483648 at position 0");
    const std::vector<std::int64_t> far = {0, std::int64_t{1} << 40, 0};
    built.refuse(RowGradient{built.values.read_only(), Tensor(far)}, "found 1099511627776 at position 1");
}

TEST(indices_of_another_kind) {
    const Built built;
    const std::vector<float> floats = {0.0f, 1.0f, 2.0f};
    built.refuse(RowGradient{built.values.read_only(), Tensor(floats)},
                 "gradient of variable 0 ('embedding'): expected indices of int32 or int64, found float32");
    built.refuse(RowGradient{built.values.read_only(), view(good, {3, 1})},
                 "expected indices of one dimension, found shape (3, 1)");
    CHECK_REFUSED(Gradient(RowGradient{built.values.read_only(), Tensor()}), "RowGradient: indices");
    CHECK_REFUSED(Gradient(RowGradient{Tensor(), Tensor(good)}), "RowGradient: values");
}

TEST(values_of_another_shape_or_kind) {
    const Built built;
    const std::vector<std::int64_t> two = {1, 2};
    built.refuse(RowGradient{built.values.read_only(), Tensor(two)}, "expected values of shape (2, 2)");
    const Array wide(DType::float32, Shape{3, 3}, {}), flat(DType::float32, Shape{6}, {});
    built.refuse(RowGradient{wide.read_only(), Tensor(good)}, "expected values of shape (3, 2)");
    built.refuse(RowGradient{flat.read_only(), Tensor(good)}, "expected values of shape (3, 2)");
    const std::vector<std::int64_t> integers(6);
    built.refuse(RowGradient{view(integers, {3, 2}), Tensor(good)}, "found int64");
    built.refuse(Gradient(Tensor(integers)), "expected shape");
}

TEST(values_in_memory_that_is_written) {
    const Built built;
    const Tensor of_table(static_cast<const void*>(built.table.data()), DType::float32, Shape{3, 2});
    const Tensor of_matrix = built.matrix.read_only();
    Optimizer optimizer(fusedopt::Adam{});
    optimizer.build(built.variables(), built.names);
    built.check_refused(optimizer, RowGradient{of_table, Tensor(good)}, "overlapping variable 0");
    built.check_refused(optimizer, RowGradient{of_matrix, Tensor(good)}, "overlapping variable 1");
    const Tensor momentum = optimizer.state()[2].tensor;
    const Tensor of_state(static_cast<const void*>(momentum.data()), DType::float32, Shape{3, 2});
    built.check_refused(optimizer, RowGradient{of_state, Tensor(good)}, "optimizer's state");
}

TEST(variables_without_rows) {
    const Array scalar(DType::float32, Shape{}, {1.0}), empty(DType::float32, Shape{0, 2}, {}),
        value(DType::float32, Shape{1}, {1.0});
    const std::vector<std::int64_t> zero = {0};
    Optimizer optimizer(fusedopt::SGD{});
    optimizer.build({scalar.tensor(), empty.tensor()});
    CHECK_REFUSED(optimizer.apply({RowGradient{value.read_only(), Tensor(zero)}, Tensor()}),
                  "expected a dense gradient");
    const Array row(DType::float32, Shape{1, 2}, {1.0, 2.0});
    CHECK_REFUSED(optimizer.apply({Tensor(), RowGradient{row.read_only(), Tensor(zero)}}), "expected no row indices");
}

TEST(more_rows_than_32_bits_count) {
    // Tables of no elements, so that they take no memory.
    float nothing;
    const Array values(DType::float32, Shape{0, 0}, {});
    for (const std::int64_t over : {0, 1}) {
        const Tensor table(static_cast<void*>(&nothing), DType::float32, Shape{(std::int64_t{1} << 31) + over, 0});
        Optimizer optimizer(fusedopt::SGD{});
        optimizer.build({table});
        const std::vector<std::int32_t> narrow(1);
        const Tensor none(static_cast<const void*>(narrow.data()), DType::int32, Shape{0});
        if (over) {
            CHECK_REFUSED(optimizer.apply({RowGradient{values.read_only(), none}}), "expected int64 indices");
        } else {
            CHECK(optimizer.apply({RowGradient{values.read_only(), none}}));
        }
    }
}

TEST(rules_and_options_that_take_no_rows) {
    const auto refuse = [](const Rule& rule, const Options& options, const std::string& part) {
        const Built built;
        Optimizer optimizer(rule, options);
        optimizer.build(built.variables());
        built.check_refused(optimizer, RowGradient{built.values.read_only(), Tensor(good)}, part);
    };
    refuse(fusedopt::Lamb{}, {}, "Lamb's ratio");
    refuse(fusedopt::Adafactor{}, {}, "Adafactor's means");
    refuse(fusedopt::Muon{.matrix_product = multiply}, {}, "Muon's products");
    refuse(fusedopt::SGD{}, {.gradient_accumulation_steps = 2}, "gradient_accumulation_steps");
}

TEST(a_variable_twice) {
    const Built built;
    Optimizer optimizer(fusedopt::Adam{});
    optimizer.build(built.variables(), built.names);
    const auto before = snapshot(optimizer, built.variables());
    const RowGradient rows{built.values.read_only(), Tensor(good)};
    CHECK_REFUSED(
        optimizer.apply(std::vector<Gradient>{rows, rows}, std::vector{built.table.tensor(), built.table.tensor()}),
        "twice");
    CHECK(snapshot(optimizer, built.variables()) == before);
    CHECK(optimizer.apply({rows, Tensor()}));
}

TEST(hosted_rows) {
    const Built built;
    const Array transposed(DType::float32, Shape{2, 10}, {});
    const auto refuse = [&](HostedVariable variable, const std::string& part) {
        const Array before = built.table.copy();
        HostedGroup group{.rule = fusedopt::SGD{}, .variables = {&variable, 1}};
        HostedStep step;
        CHECK_REFUSED(step.run({&group, 1}), part);
        CHECK(values_of(before.tensor()) == values_of(built.table.tensor()));
    };
    const HostedVariable fine{
        .variable = built.table.tensor(), .gradient = built.values.read_only(), .indices = Tensor(good)};
    HostedVariable bad = fine;
    const std::vector<std::int64_t> far = {0, 1, 10};
    bad.indices = Tensor(far);
    refuse(bad, "group 0, parameter 0: gradient: expected row indices from 0 to 9");
    bad = fine;
    bad.gradient = Tensor();
    refuse(bad, "expected values with the indices");
    bad = fine;
    bad.variable = Tensor(static_cast<void*>(transposed.data()), DType::float32, Shape{10, 2}, Shape{4, 40});
    refuse(bad, "not C-contiguous");
    bad = fine;
    bad.gradient = Tensor(static_cast<const void*>(built.table.data()), DType::float32, Shape{3, 2});
    refuse(bad, "overlapping");
}
