// Steps of any optimizer over the same few variables, and what it holds after them.
#pragma once

#include <algorithm>
#include <map>
#include <string>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "array.hpp"
#include "check.hpp"

inline std::vector<Array> new_variables() {
    std::vector<Array> variables;
    variables.emplace_back(DType::float32, Shape{12, 20}, numbers(DType::float32, 240, 1));
    variables.emplace_back(DType::float64, Shape{9, 5}, numbers(DType::float64, 45, 2));
    variables.emplace_back(DType::bfloat16, Shape{33}, numbers(DType::bfloat16, 33, 3));
    variables.emplace_back(DType::float16, Shape{6, 7}, numbers(DType::float16, 42, 4));
    return variables;
}

inline std::vector<Array> copies(const std::vector<Array>& arrays) {
    std::vector<Array> copied;
    for (const Array& array : arrays) copied.push_back(array.copy());
    return copied;
}

template <class AnyOptimizer>
void step(AnyOptimizer& optimizer, const std::vector<Array>& variables, unsigned seed) {
    std::vector<Array> gradients;
    for (const Array& variable : variables) {
        const Tensor tensor = variable.tensor();
        const Shape shape(tensor.shape().begin(), tensor.shape().end());
        gradients.emplace_back(DType::float32, shape, numbers(DType::float32, tensor.size(), ++seed));
    }
    optimizer.apply(tensors(gradients));
}

template <class AnyOptimizer>
std::map<std::string, std::vector<std::byte>> state_of(const AnyOptimizer& optimizer,
                                                       const std::vector<Array>& variables) {
    std::map<std::string, std::vector<std::byte>> state;
    const auto add = [&](const std::string& name, const Tensor& tensor) {
        const auto* from = static_cast<const std::byte*>(tensor.data());
        state[name] = {from, from + tensor.size_bytes()};
    };
    for (const auto& [name, tensor] : optimizer.state()) add(name, tensor);
    for (std::size_t i = 0; i < variables.size(); ++i) add("variable " + std::to_string(i), variables[i].tensor());
    return state;
}

template <class AnyOptimizer>
std::vector<std::string> names_of(const AnyOptimizer& optimizer) {
    std::vector<std::string> names;
    for (const auto& list : {optimizer.variables(), optimizer.state()}) {
        for (const auto& item : list) names.push_back(item.name);
    }
    return names;
}

/// Gives an optimizer what another one holds under the names that both have.
template <class AnyOptimizer>
void load(AnyOptimizer& optimizer, const AnyOptimizer& from) {
    std::vector<Tensor> values;
    const auto held = from.state();
    for (const auto& [name, tensor] : optimizer.state()) {
        const auto found = std::ranges::find(held, name, &fusedopt::NamedTensor::name);
        values.push_back(found == held.end() ? tensor : found->tensor);
    }
    optimizer.set_state(values);
}

/// Takes steps with both and compares what they hold under the names that both have.
template <class AnyOptimizer>
void check_equal_steps(const std::string& where, AnyOptimizer& found, const std::vector<Array>& found_variables,
                       AnyOptimizer& expected, const std::vector<Array>& expected_variables) {
    for (unsigned k = 0; k < 3; ++k) {
        step(found, found_variables, 1000 * k);
        step(expected, expected_variables, 1000 * k);
    }
    const auto found_state = state_of(found, found_variables);
    for (const auto& [name, bytes] : state_of(expected, expected_variables)) {
        const auto same = found_state.find(name);
        const bool is_equal = same == found_state.end() || same->second == bytes;
        CHECK_EQUAL(is_equal ? "" : where + ": " + name, "");
    }
}
