// A rule and common options that a fuzzer's bytes choose: each hyperparameter keeps its default, or gets any value.
#pragma once

#include <algorithm>
#include <map>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>

#include <fusedopt/fusedopt.hpp>

#include "../../cpp/array.hpp"
#include "../../cpp/cases.hpp"
#include "../../cpp/visit.hpp"
#include "bytes.hpp"

inline const std::string names_of_variables[] = {"a", "b", "c/bias", "embedding", "e", "f", "g", "h"};

/// What a function of the user's throws; it must arrive where the step was called.
struct Thrown : std::runtime_error {
    Thrown() : std::runtime_error("thrown by a function") {}
};

inline fusedopt::Hyperparameter function(Bytes& bytes) {
    const double value = bytes.number();
    switch (bytes.below(8)) {
        case 0:
            return fusedopt::ExponentialDecay{value, bytes.number(), bytes.number(), bytes.once_in(2)};
        case 1:
            return fusedopt::InverseTimeDecay{value, bytes.number(), bytes.number(), bytes.once_in(2)};
        case 2:
            return fusedopt::PolynomialDecay{value, bytes.number(), bytes.number(), bytes.number(), bytes.once_in(2)};
        case 3:
            return fusedopt::PiecewiseConstantDecay{{bytes.number(), bytes.number()}, {value, 0.5, bytes.number()}};
        case 4:
            return fusedopt::CosineDecay{value, bytes.number(), bytes.number(), bytes.number(), bytes.integer()};
        case 5:
            return fusedopt::CosineDecayRestarts{value, bytes.number(), bytes.number(), bytes.number(), bytes.number()};
        case 6:
            return [value](std::int64_t step) { return step % 3 == 2 ? throw Thrown() : value; };
        default:
            return [value](std::int64_t step) { return value / static_cast<double>(step + 1); };
    }
}

inline void choose(Bytes& bytes, bool& value) {
    value = bytes.once_in(2);
}
inline void choose(Bytes& bytes, double& value) {
    value = bytes.number();
}
inline void choose(Bytes& bytes, std::int64_t& value) {
    value = bytes.integer();
}
inline void choose(Bytes& bytes, DType& value) {
    value = static_cast<DType>(bytes.below(9));  // the last one is none
}
inline void choose(Bytes& bytes, fusedopt::RowUpdates& value) {
    value = static_cast<fusedopt::RowUpdates>(bytes.below(2));
}
inline void choose(Bytes& bytes, fusedopt::SlotDType& value) {
    value = static_cast<fusedopt::SlotDType>(bytes.below(3));
}
inline void choose(Bytes& bytes, fusedopt::Hyperparameter& value) {
    value = bytes.once_in(3) ? function(bytes) : fusedopt::Hyperparameter(bytes.number());
}
template <class Value>
void choose(Bytes& bytes, std::optional<Value>& value) {
    if (bytes.once_in(4)) {
        value.reset();
    } else {
        choose(bytes, value.emplace(Value(1)));
    }
}
inline void choose(Bytes& bytes, std::map<std::string, fusedopt::SlotDType>& value) {
    for (std::size_t count = bytes.below(4); count > 0; --count) {
        choose(bytes, value[names_of_variables[bytes.below(std::size(names_of_variables))]]);
    }
}
inline void choose(Bytes& bytes, fusedopt::Muon::Exclusion& value) {
    value = fusedopt::Muon::excluding({"a|f"}, bytes.once_in(2));
}
inline void choose(Bytes& bytes, fusedopt::Muon::MatrixProduct& value) {
    value = multiply;
    if (bytes.once_in(8)) value = [](const Tensor&, const Tensor&, const Tensor&) {};
    if (bytes.once_in(8)) value = [](const Tensor&, const Tensor&, const Tensor&) { throw Thrown(); };
    if (bytes.once_in(8)) value = nullptr;
}

/// Changes some fields of a struct.
template <class Struct>
void choose_fields(Bytes& bytes, Struct& value) {
    const auto choose_one = [&](const auto& field) {
        if (bytes.once_in(4)) choose(bytes, value.*field.member);
    };
    std::apply([&](const auto&... field) { (choose_one(field), ...); }, Struct::fields());
}

template <std::size_t... I>
fusedopt::Rule rule_of(std::size_t number, std::index_sequence<I...>) {
    fusedopt::Rule rule;
    ((I == number ? void(rule.emplace<I>()) : void()), ...);
    return rule;
}

inline void choose_fields(Bytes& bytes, fusedopt::Rule& rule) {
    visit_rule([&](auto& value) { choose_fields<std::remove_cvref_t<decltype(value)>>(bytes, value); }, rule);
    // A step takes as long as it is told to.
    if (auto* muon = std::get_if<fusedopt::Muon>(&rule)) muon->ns_steps = std::min<std::int64_t>(muon->ns_steps, 3);
}

inline fusedopt::Rule any_rule(Bytes& bytes) {
    constexpr std::size_t count = std::variant_size_v<fusedopt::Rule> - 1;  // the last one is a program's own
    fusedopt::Rule rule = rule_of(bytes.below(count), std::make_index_sequence<count>());
    if (auto* muon = std::get_if<fusedopt::Muon>(&rule)) {
        muon->matrix_product = multiply;
        muon->ns_steps = 2;
    }
    choose_fields(bytes, rule);
    return rule;
}
