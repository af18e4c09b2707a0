// Variables with slots in 16 and 8 bits, their gradients, and all that they hold after some steps.
#pragma once

#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "cases.hpp"
#include "check.hpp"
#include "steps.hpp"

using fusedopt::Options;
using fusedopt::SlotDType;

using State = std::map<std::string, std::vector<std::byte>>;

inline constexpr SlotDType coded_dtypes[] = {SlotDType::bfloat16, SlotDType::float8};

/// Arrays of these shapes.
inline std::vector<Array> arrays_of(DType dtype, const std::vector<Shape>& shapes, unsigned seed) {
    std::vector<Array> arrays;
    for (const Shape& shape : shapes) arrays.emplace_back(dtype, shape, numbers(dtype, count(shape), seed++));
    return arrays;
}

/// The options under which all variables have slots of this kind, however small they are.
inline Options coded(SlotDType slot_dtype, std::size_t variables, Options options = {}) {
    for (std::size_t i = 0; i < variables; ++i) options.slot_dtypes[std::to_string(i)] = slot_dtype;
    return options;
}

/// Whether a rule has slots of 8 bits.
inline bool has_float8(const fusedopt::Rule& rule) {
    try {
        const fusedopt::Optimizer optimizer(rule, {.slot_dtype = SlotDType::float8});
        return true;
    } catch (const std::invalid_argument&) {
        return false;
    }
}

/// Rules with every kind of slot that can be had: bfloat16, and float8 where the rule has it.
template <class Body>
void for_each_rule_and_slot_dtype(const Body& body) {
    for (const RuleCase& rule_case : rule_cases()) {
        for (const SlotDType slot_dtype : coded_dtypes) {
            if (slot_dtype == SlotDType::float8 && !has_float8(rule_case.rule)) continue;
            body(rule_case.name + ", " + std::string(to_string(slot_dtype)), rule_case.rule, slot_dtype);
        }
    }
}

/// The first array that is not the same in both, or nothing.
inline std::string first_difference(const State& found, const State& expected) {
    if (found.size() != expected.size()) return "another number of arrays";
    for (const auto& [name, bytes] : expected) {
        const auto same = found.find(name);
        if (same == found.end() || same->second != bytes) return name;
    }
    return "";
}

/// Checks that a run leaves the same bits on every level and thread count.
template <class Run>
void check_same_everywhere(const std::string& name, const Run& run) {
    std::optional<State> expected;
    on_every_level_and_thread_count([&](const std::string& where) {
        const State found = run();
        if (!expected) expected = found;
        const std::string different = first_difference(found, *expected);
        CHECK_EQUAL(different.empty() ? "" : name + ", " + where + ": " + different, "");
    });
}

inline constexpr unsigned step_count = 4;

/// In every step, another variable has no gradient.
inline State after_steps(const fusedopt::Rule& rule, const Options& options, DType dtype, const std::vector<Shape>& of,
                         DType gradient_dtype = DType::float32) {
    const std::vector<Array> variables = arrays_of(dtype, of, 1);
    fusedopt::Optimizer optimizer(rule, options);
    optimizer.build(tensors(variables));
    for (unsigned k = 0; k < step_count; ++k) {
        const std::vector<Array> gradients = arrays_of(gradient_dtype, of, 100 * (k + 1));
        std::vector<Tensor> list = tensors(gradients);
        list[k % of.size()] = Tensor();
        optimizer.apply(list);
    }
    return state_of(optimizer, variables);
}
