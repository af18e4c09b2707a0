// Gradients of variables given by their places in build do what those of the same variables by memory do.
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "check.hpp"

#include <fusedopt/fusedopt.hpp>

namespace {

using fusedopt::LossScaleOptimizer;
using fusedopt::MultiOptimizer;
using fusedopt::Optimizer;
using fusedopt::Options;
using fusedopt::Tensor;

constexpr std::size_t count = 4;
using Indices = std::vector<std::size_t>;

struct Arrays {
    std::vector<std::vector<float>> values;

    explicit Arrays(float first) {
        for (std::size_t i = 0; i < count; ++i) values.emplace_back(i + 2, first + 0.25f * static_cast<float>(i));
    }
    std::vector<Tensor> tensors() {
        std::vector<Tensor> list;
        for (auto& own : values) list.emplace_back(own);
        return list;
    }
    std::vector<Tensor> at(const Indices& indices) {
        std::vector<Tensor> list;
        for (const std::size_t i : indices) list.push_back(tensors().at(i));
        return list;
    }
};

std::shared_ptr<Optimizer> single() {
    return std::make_shared<Optimizer>(fusedopt::Adam{}, Options{.global_clipnorm = 1.0, .use_ema = true});
}

std::shared_ptr<MultiOptimizer> several() {
    const auto accumulating = std::make_shared<Optimizer>(fusedopt::AdamW{}, Options{.gradient_accumulation_steps = 2});
    return std::make_shared<MultiOptimizer>(std::vector<std::shared_ptr<Optimizer>>{single(), accumulating});
}

void build(Optimizer& optimizer, Arrays& variables) {
    optimizer.build(variables.tensors());
}

void build(MultiOptimizer& optimizer, Arrays& variables) {
    optimizer.build(variables.tensors(), Indices{0, 1, 1, 0});
}

// Some of these leave a member of several optimizers out; one has no gradient at some place.
template <class Step, class Other>
void compare(Step&& by_index, Other&& by_memory, Arrays& variables, Arrays& others) {
    Arrays gradients(0.5f);
    for (const Indices& indices : {Indices{3, 0, 2}, Indices{1, 2}, Indices{0}, Indices{0, 1, 2, 3}, Indices{}}) {
        by_index.apply(gradients.at(indices), indices);
        by_memory.apply(gradients.at(indices), others.at(indices));
        CHECK(variables.values == others.values);
    }
    std::vector<Tensor> with_gap = gradients.at({2, 0, 3});
    with_gap[1] = Tensor();
    by_index.apply(with_gap, Indices{2, 0, 3});
    by_memory.apply(with_gap, others.at({2, 0, 3}));
    CHECK(variables.values == others.values);
    CHECK(variables.values[3] != Arrays(1.0f).values[3]);
}

template <class Any>
void check_refusals(Any&& optimizer, Arrays& variables) {
    Arrays gradients(0.5f);
    const auto before = variables.values;
    CHECK_REFUSED(optimizer.apply(gradients.at({0, 1}), Indices{0, 4}),
                  "index at position 1: expected the place of one of the 4 variables given to build, found 4");
    CHECK_REFUSED(optimizer.apply(gradients.at({1, 1}), Indices{1, 1}), "expected each variable once");
    CHECK_REFUSED(optimizer.apply(gradients.at({0, 1}), Indices{0}), "expected 1 gradients");
    CHECK_REFUSED(optimizer.apply(std::vector<Tensor>(1), Indices{2}), "No gradients provided");
    CHECK_REFUSED(optimizer.apply(gradients.at({1}), Indices{0}), "expected shape (2,), found (3,)");
    CHECK(variables.values == before);
}

template <class Make>
void check_both(const Make& make) {
    Arrays variables(1.0f), others(1.0f);
    const auto one = make(), other = make();
    build(*one, variables);
    build(*other, others);
    check_refusals(*one, variables);
    compare(*one, *other, variables, others);

    Arrays scaled(1.0f), other_scaled(1.0f);
    const auto inner = make(), other_inner = make();
    build(*inner, scaled);
    build(*other_inner, other_scaled);
    LossScaleOptimizer outer(inner, {.initial_scale = 4.0}), other_outer(other_inner, {.initial_scale = 4.0});
    check_refusals(outer, scaled);
    compare(outer, other_outer, scaled, other_scaled);
}

}  // namespace

TEST(one_optimizer) {
    check_both(single);
}

TEST(several_optimizers) {
    check_both(several);
}

template <class Make>
void check_builds(const Make& make) {
    Arrays variables(1.0f), gradients(0.5f);
    const auto optimizer = make();
    CHECK(optimizer->builds() == 0);
    build(*optimizer, variables);
    build(*optimizer, variables);
    CHECK(optimizer->builds() == 1);
    optimizer->apply(gradients.tensors(), 1);
    optimizer->apply(gradients.at({2}), Indices{2}, 1);
    const auto before = variables.values;
    LossScaleOptimizer outer(optimizer);
    CHECK(outer.builds() == 1);
    const auto refuse = [&](auto&& any) {
        CHECK_REFUSED(any.apply(gradients.tensors(), 0), "found them built again meanwhile");
        CHECK_REFUSED(any.apply(gradients.at({2}), Indices{2}, 2), "found them built again meanwhile");
        CHECK(variables.values == before);
    };
    refuse(*optimizer);
    refuse(outer);
}

TEST(builds_since_the_gradients_were_put_in_order) {
    check_builds(single);
    check_builds(several);
}

TEST(before_build) {
    std::vector<float> gradient(2);
    CHECK_REFUSED(single()->apply(std::vector{Tensor(gradient)}, Indices{0}), "not built");
    CHECK_REFUSED(several()->apply(std::vector{Tensor(gradient)}, Indices{0}), "not built");
}
