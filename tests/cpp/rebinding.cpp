// Variables whose memory is moved: the steps go on in the new memory, or are refused before anything is written.
#include <memory>

#include "cases.hpp"
#include "check.hpp"
#include "steps.hpp"

namespace {

using fusedopt::LossScaleOptimizer;
using fusedopt::MultiOptimizer;
using fusedopt::Optimizer;

// The old memory is freed, so that whoever still reads it is found out.
template <class AnyOptimizer>
void move(AnyOptimizer& optimizer, std::vector<Array>& variables) {
    std::vector<Array> moved = copies(variables);
    optimizer.rebind(tensors(moved));
    variables = std::move(moved);
}

/// Steps that are moved between equal steps that stay.
template <class AnyOptimizer>
void check_moved(const std::string& where, AnyOptimizer& optimizer, std::vector<Array>& variables,
                 AnyOptimizer& expected, const std::vector<Array>& expected_variables) {
    check_equal_steps(where, optimizer, variables, expected, expected_variables);
    move(optimizer, variables);
    check_equal_steps(where + " moved", optimizer, variables, expected, expected_variables);
    move(optimizer, variables);
    check_equal_steps(where + " moved twice", optimizer, variables, expected, expected_variables);
}

std::shared_ptr<MultiOptimizer> group_of(const fusedopt::Rule& rule, const std::vector<Array>& variables) {
    auto group = std::make_shared<MultiOptimizer>(
        std::vector{std::make_shared<Optimizer>(rule), std::make_shared<Optimizer>(fusedopt::SGD{})});
    group->build(tensors(variables), std::vector<std::size_t>{0, 1, 0, 1});
    return group;
}

Tensor as(const Array& array, DType dtype, const Shape& shape, const Shape& strides = {}) {
    return Tensor(static_cast<void*>(array.data()), dtype, shape, strides);
}

}  // namespace

TEST(steps_go_on_elsewhere) {
    for (const auto& [rule_name, rule] : rule_cases()) {
        for (const auto& [option_name, options] : option_cases()) {
            std::vector<Array> variables = new_variables();
            const std::vector<Array> others = copies(variables);
            Optimizer optimizer(rule, options), expected(rule, options);
            optimizer.build(tensors(variables));
            expected.build(tensors(others));
            check_moved(rule_name + " " + option_name, optimizer, variables, expected, others);
        }
    }
}

TEST(groups_and_loss_scales_go_on_elsewhere) {
    for (const auto& [name, rule] : rule_cases()) {
        std::vector<Array> variables = new_variables();
        const std::vector<Array> others = copies(variables);
        const auto group = group_of(rule, variables), expected = group_of(rule, others);
        check_moved(name + " in a group", *group, variables, *expected, others);
        LossScaleOptimizer scaled(group, {.initial_scale = 4.0}), expected_scaled(expected, {.initial_scale = 4.0});
        check_moved(name + " scaled", scaled, variables, expected_scaled, others);
    }
}

TEST(what_the_new_memory_holds_counts) {
    for (const DType dtype : all_dtypes) {
        Array w(dtype, {1.0, 2.0}), moved(dtype, {5.0, 6.0});
        Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0});
        optimizer.build({w.tensor()});
        const Array gradient(DType::float32, {0.5, 0.5});
        optimizer.apply({gradient.tensor()});
        optimizer.rebind(std::vector{moved.tensor()});
        optimizer.apply({gradient.tensor()});
        CHECK_EQUAL(difference(values_of(w.tensor()), {0.5, 1.5}), "");
        CHECK_EQUAL(difference(values_of(moved.tensor()), {4.5, 5.5}), "");
    }
}

TEST(an_evaluation_ends_in_the_new_memory) {
    for (const DType dtype : all_dtypes) {
        Array w(dtype, {8.0, 2.0});
        Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0, .use_ema = true, .ema_momentum = 0.5});
        optimizer.build({w.tensor()});
        const Array gradient(DType::float32, {1.0, 1.0});
        for (int k = 0; k < 2; ++k) optimizer.apply({gradient.tensor()});
        optimizer.begin_evaluation();
        const Array moved = w.copy();
        optimizer.rebind(std::vector{moved.tensor()});
        optimizer.end_evaluation();
        CHECK_EQUAL(difference(values_of(moved.tensor()), {6.0, 0.0}), "");
        CHECK_EQUAL(difference(values_of(w.tensor()), {6.5, 0.5}), "");
    }
}

TEST(a_gradient_is_checked_again) {
    Array w(DType::float32, {1.0, 2.0}), gradient(DType::float32, {0.5, 0.5});
    Optimizer optimizer(fusedopt::SGD{});
    optimizer.build({w.tensor()});
    optimizer.apply({gradient.tensor()});
    optimizer.rebind(std::vector{gradient.tensor()});
    CHECK_REFUSED(optimizer.apply({gradient.tensor()}), "apart from the variables");
}

TEST(what_cannot_be_followed_is_refused) {
    const Array a(DType::float32, {1.0, 2.0, 3.0, 4.0}), b(DType::float32, {5.0, 6.0});
    const auto whole = std::make_shared<Optimizer>(fusedopt::Adam{});
    const auto first = std::make_shared<Optimizer>(fusedopt::Adam{}),
               second = std::make_shared<Optimizer>(fusedopt::Adam{});
    whole->build(std::vector{as(a, DType::float32, {2, 2}), b.tensor()}, std::vector<std::string>{"a", "b"});
    MultiOptimizer group({first, second});
    group.build(std::vector{as(a, DType::float32, {2, 2}), b.tensor()}, std::vector<std::size_t>{0, 1},
                std::vector<std::string>{"a", "b"});
    LossScaleOptimizer scaled(whole);
    const Array larger(DType::float64, {1.0, 2.0, 3.0, 4.0, 5.0});
    const auto refuses = [&](auto& optimizer, const Optimizer& owner) {
        const std::vector<Tensor> built = {as(a, DType::float32, {2, 2}), b.tensor()};
        const auto before = snapshot(owner, built);
        const auto refuse = [&](const Tensor& one, const Tensor& other, const char* part) {
            CHECK_REFUSED(optimizer.rebind(std::vector{one, other}), part);
            CHECK(snapshot(owner, built) == before);
        };
        const Tensor new_a = as(larger, DType::float32, {2, 2});
        CHECK_REFUSED(optimizer.rebind(std::vector{built[0]}), "expected 2 variables, found 1");
        CHECK_REFUSED(optimizer.rebind(built, optimizer.builds() - 1), "built again meanwhile");
        refuse(as(larger, DType::float64, {2, 2}), built[1], "variable 0 ('a'): expected float32 of shape (2, 2)");
        refuse(as(larger, DType::float32, {4}), built[1], "found its memory moved and now float32 of shape (4,)");
        refuse(as(larger, DType::float32, {2, 2}, {4, 8}), built[1], "variable 0 ('a'): expected C-contiguous");
        refuse(Tensor(static_cast<const void*>(larger.data()), DType::float32, Shape{2, 2}), built[1], "read-only");
        refuse(Tensor(static_cast<void*>(larger.data() + 1), DType::float32, Shape{2, 2}), built[1], "misaligned");
        refuse(Tensor(), built[1], "variable 0 ('a'): expected an array, found none");
        refuse(new_a, as(larger, DType::float32, {2}), "variable 1 ('b'): expected memory of its own");
        refuse(built[0], as(a, DType::float32, {2}), "variable 1 ('b'): expected memory of its own");
        const Tensor momentum = owner.variables()[2].tensor;
        refuse(Tensor(momentum.data(), DType::float32, Shape{2, 2}), built[1], "apart from the optimizer's state");
        optimizer.rebind(built);
    };
    refuses(*whole, *whole);
    refuses(scaled, *whole);
    refuses(group, *first);
    Optimizer unbuilt(fusedopt::SGD{});
    CHECK_REFUSED(unbuilt.rebind({}), "rebind: the optimizer is not built");
}

TEST(variables_can_change_places) {
    Array a(DType::float32, {1.0, 2.0}), b(DType::float32, {5.0, 6.0});
    Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0});
    optimizer.build({a.tensor(), b.tensor()});
    optimizer.rebind(std::vector{b.tensor(), a.tensor()});
    const Array one(DType::float32, {1.0, 1.0}), none(DType::float32, {0.0, 0.0});
    optimizer.apply({one.tensor(), none.tensor()});
    CHECK_EQUAL(difference(values_of(a.tensor()), {1.0, 2.0}), "");
    CHECK_EQUAL(difference(values_of(b.tensor()), {4.0, 5.0}), "");
    optimizer.apply(std::vector{one.tensor()}, std::vector{a.tensor()});
    CHECK_EQUAL(difference(values_of(a.tensor()), {0.0, 1.0}), "");
}
