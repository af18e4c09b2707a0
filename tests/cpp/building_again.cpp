// Building again with more variables: old ones go on bit for bit, new ones begin as in a first build.
#include <map>
#include <memory>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

using fusedopt::LossScaleOptimizer;
using fusedopt::MultiOptimizer;
using fusedopt::NamedTensor;
using fusedopt::Optimizer;
using fusedopt::Options;

using Bytes = std::vector<std::byte>;
using Names = std::vector<std::string>;

Bytes bytes_of(const Tensor& tensor) {
    const auto* from = static_cast<const std::byte*>(tensor.data());
    return {from, from + tensor.size_bytes()};
}

std::map<std::string, Bytes> by_name(const std::vector<NamedTensor>& list) {
    std::map<std::string, Bytes> found;
    for (const auto& [name, tensor] : list) found[name] = bytes_of(tensor);
    return found;
}

struct Arrays {
    std::vector<Array> variables, gradients;

    explicit Arrays(std::size_t count) {
        for (unsigned i = 0; i < count; ++i) {
            const DType dtype = all_dtypes[i % 4];
            variables.emplace_back(dtype, Shape{30 + i, 40}, numbers(dtype, (30 + i) * 40, i));
            gradients.emplace_back(DType::float32, Shape{30 + i, 40}, numbers(DType::float32, (30 + i) * 40, 10 + i));
        }
    }
};

std::vector<Tensor> in_order(const std::vector<Array>& arrays, const std::vector<std::size_t>& order) {
    std::vector<Tensor> list;
    for (const std::size_t i : order) list.push_back(arrays[i].tensor());
    return list;
}

Names named(const std::vector<std::size_t>& order) {
    Names names;
    for (const std::size_t i : order) names.emplace_back("w").append(std::to_string(i));
    return names;
}

const std::vector<std::size_t> old_order = {0, 1, 2, 3}, new_order = {5, 3, 0, 6, 1, 4, 2};

}  // namespace

TEST(old_variables_go_on_and_new_ones_begin) {
    for (const auto& [rule_name, rule] : rule_cases()) {
        for (const auto& [option_name, options] : option_cases()) {
            Arrays arrays(7), copies(7), others(7);
            Optimizer grown(rule, options), alone(rule, options), fresh(rule, options);
            grown.build(in_order(arrays.variables, old_order), named(old_order));
            alone.build(in_order(copies.variables, old_order), named(old_order));
            fresh.build(in_order(others.variables, new_order), named(new_order));
            for (int k = 0; k < 4; ++k) {
                grown.apply(in_order(arrays.gradients, old_order));
                alone.apply(in_order(copies.gradients, old_order));
            }
            const auto views = grown.variables();
            const auto before = by_name(views);
            grown.build(in_order(arrays.variables, new_order), named(new_order));
            const auto initial = by_name(fresh.variables());
            bool is_right = true;
            for (const auto& [name, bytes] : by_name(grown.variables())) {
                const auto found = before.find(name);
                is_right = is_right && bytes == (found != before.end() ? found->second : initial.at(name));
            }
            std::vector<Tensor> old_gradients = in_order(arrays.gradients, new_order);
            for (const std::size_t i : {0, 3, 5}) old_gradients[i] = Tensor();
            for (int k = 0; k < 3; ++k) {
                grown.apply(old_gradients);
                alone.apply(in_order(copies.gradients, old_order));
            }
            const auto now = by_name(grown.state());
            for (const auto& [name, bytes] : by_name(alone.state())) is_right = is_right && now.at(name) == bytes;
            for (const std::size_t i : old_order) {
                is_right = is_right && bytes_of(arrays.variables[i].tensor()) == bytes_of(copies.variables[i].tensor());
            }
            const auto listed = by_name(grown.variables());
            for (const auto& [name, tensor] : views) is_right = is_right && bytes_of(tensor) == listed.at(name);
            grown.apply(in_order(arrays.gradients, new_order));
            if (!is_right) check::fail(__FILE__, __LINE__, rule_name + ", " + option_name);
        }
    }
}

TEST(every_level_and_thread_count_gives_the_same_bits) {
    std::map<std::string, Bytes> first;
    on_every_level_and_thread_count([&](const std::string& where) {
        Arrays arrays(7);
        Optimizer optimizer(fusedopt::Lamb{}, {.global_clipnorm = 1.0, .use_ema = true});
        optimizer.build(in_order(arrays.variables, old_order));
        for (int k = 0; k < 2; ++k) optimizer.apply(in_order(arrays.gradients, old_order));
        optimizer.build(in_order(arrays.variables, new_order));
        for (int k = 0; k < 2; ++k) optimizer.apply(in_order(arrays.gradients, new_order));
        const auto found = by_name(optimizer.state());
        if (first.empty()) first = found;
        if (found != first) check::fail(__FILE__, __LINE__, where);
    });
}

TEST(several_optimizers) {
    Arrays arrays(7), copies(7);
    const auto make = [] {
        return std::make_shared<MultiOptimizer>(std::vector{
            std::make_shared<Optimizer>(fusedopt::Adam{}, Options{.use_ema = true}),
            std::make_shared<Optimizer>(fusedopt::Nadam{}), std::make_shared<Optimizer>(fusedopt::Adafactor{})});
    };
    const auto grown = make(), alone = make();
    LossScaleOptimizer scaled(grown), other(alone);
    grown->build(in_order(arrays.variables, old_order), std::vector<std::size_t>{0, 1, 1, 0}, named(old_order));
    alone->build(in_order(copies.variables, old_order), std::vector<std::size_t>{0, 1, 1, 0}, named(old_order));
    const auto step = [&] {
        scaled.apply(in_order(arrays.gradients, old_order), in_order(arrays.variables, old_order));
        other.apply(in_order(copies.gradients, old_order), in_order(copies.variables, old_order));
    };
    step();
    const auto before = by_name(scaled.state());
    const auto build = [&](std::vector<std::size_t> assignment, const std::vector<std::size_t>& order = new_order) {
        grown->build(in_order(arrays.variables, order), assignment, named(order));
    };
    CHECK_REFUSED(build({2, 0, 1, 2, 1, 0, 1}), "variable 2 ('w0'): expected optimizer 0, which it was built with");
    CHECK_REFUSED(build({2, 0, 0, 2, 1, 0, 7}), "from 0 to 2");
    CHECK_REFUSED(build({0, 1, 1}, {0, 1, 2}), "variable 3 ('w3') missing");
    CHECK(by_name(scaled.state()) == before);
    build({2, 0, 0, 2, 1, 0, 1});
    CHECK_EQUAL(grown->optimizers()[2]->variables().size(), std::size_t{8});
    const auto after = by_name(scaled.state());
    for (const auto& [name, bytes] : before) CHECK(after.at(name) == bytes);
    step();
    for (const std::size_t i : old_order) {
        CHECK(bytes_of(arrays.variables[i].tensor()) == bytes_of(copies.variables[i].tensor()));
    }
    CHECK(scaled.apply(in_order(arrays.gradients, new_order)));
    CHECK_REFUSED(grown->optimizers()[0]->build(std::vector{arrays.variables[0].tensor()}), "missing");
    const Array more(DType::float32, Values(3));
    CHECK_REFUSED(grown->optimizers()[2]->build(
                      std::vector{arrays.variables[5].tensor(), arrays.variables[6].tensor(), more.tensor()}),
                  "on the MultiOptimizer around");
}

TEST(refusals_change_nothing) {
    Arrays arrays(7);
    Optimizer optimizer(fusedopt::Adam{}, {.use_ema = true});
    const auto old = in_order(arrays.variables, old_order);
    optimizer.build(old, named(old_order));
    optimizer.apply(in_order(arrays.gradients, old_order));
    const auto before = by_name(optimizer.state());
    const auto with = [&](const Tensor& tensor) {
        std::vector<Tensor> list = old;
        list.push_back(tensor);
        return list;
    };
    CHECK_REFUSED(optimizer.build(std::vector(old.begin(), old.begin() + 3)), "variable 3 ('w3') missing");
    CHECK_REFUSED(optimizer.build(with(arrays.variables[4].read_only())), "variable 4: expected writable");
    CHECK_REFUSED(optimizer.build(with(old[0])), "overlapping variable 0");
    CHECK_REFUSED(optimizer.build(with(optimizer.variables()[2].tensor)), "apart from the optimizer's state");
    CHECK_REFUSED(optimizer.build(old, Names{"w0", "x", "w2", "w3"}), "expected the name 'w1'");
    CHECK_REFUSED(optimizer.build(old, Names{"w0"}), "a name for each of 4");
    std::vector<Tensor> reshaped = old;
    reshaped[0] = Tensor(old[0].data(), DType::float32, Shape{1200});
    CHECK_REFUSED(optimizer.build(reshaped), "expected float32 of shape (30, 40)");
    CHECK(by_name(optimizer.state()) == before);
    optimizer.build(old);
    CHECK(by_name(optimizer.state()) == before);
    optimizer.build(with(arrays.variables[4].tensor()));
    CHECK_EQUAL(optimizer.variables().back().name, std::string("velocity/4"));
}

TEST(empty_variables_at_one_address) {
    const auto empty = [](Shape shape) { return Tensor(static_cast<void*>(nullptr), DType::float32, shape); };
    const Array a(DType::float32, Values(3)), b(DType::float32, Values(3));
    Optimizer optimizer(fusedopt::Adam{});
    optimizer.build(std::vector{empty({0}), a.tensor(), empty({0, 2}), empty({0})}, Names{"x", "a", "y", "z"});
    CHECK_REFUSED(optimizer.build(std::vector{empty({0}), a.tensor(), empty({0, 2}), b.tensor()}), "('z') missing");
    optimizer.build(std::vector{empty({0}), empty({0}), b.tensor(), a.tensor(), empty({0, 2})},
                    Names{"z", "x", "b", "a", "y"});
    CHECK_EQUAL(optimizer.variables().size(), std::size_t{12});
}

TEST(excluded_variables) {
    const Array a(DType::float32, Values(3, 1.0)), b(DType::float32, Values(3, 1.0)), zero(DType::float32, Values(3));
    Optimizer optimizer(fusedopt::AdamW{.weight_decay = 0.5}, {.learning_rate = 0.5});
    optimizer.build({a.tensor()});
    CHECK_REFUSED(optimizer.exclude_from_weight_decay(std::vector{b.tensor(), a.tensor()}), "before build");
    optimizer.exclude_from_weight_decay(std::vector{b.tensor()});
    optimizer.build({b.tensor(), a.tensor()});
    optimizer.apply({zero.tensor(), zero.tensor()});
    CHECK_EQUAL(values_of(b.tensor())[0], 1.0);
    CHECK_EQUAL(values_of(a.tensor())[0], 0.75);
}

TEST(set_state_keeps_what_is_not_given) {
    Arrays arrays(4);
    for (const auto& [rule_name, rule] : rule_cases()) {
        Optimizer optimizer(rule, {.use_ema = true, .skip_nonfinite = true});
        LossScaleOptimizer scaled(Optimizer(rule, {.gradient_accumulation_steps = 2}));
        optimizer.build(in_order(arrays.variables, old_order));
        scaled.build(in_order(arrays.variables, old_order));
        for (int k = 0; k < 3; ++k) {
            optimizer.apply(in_order(arrays.gradients, old_order));
            scaled.apply(in_order(arrays.gradients, old_order));
        }
        const auto check = [&](auto& one) {
            const auto before = by_name(one.state());
            one.set_state(std::vector<Tensor>(one.state().size()));
            CHECK(by_name(one.state()) == before);
            CHECK_REFUSED(one.set_weights(std::vector<Tensor>(one.variables().size())), "expected");
        };
        check(optimizer);
        check(scaled);
    }
}
