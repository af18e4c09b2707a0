// Range checks of hyperparameters; every message names the argument, what was expected and what was found.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include <fusedopt/fields.hpp>
#include <fusedopt/optimizer.hpp>
#include <fusedopt/rules.hpp>

namespace fusedopt {

template <class Number>
[[noreturn]] void refuse(const std::string& name, const std::string& expected, Number found,
                         const std::string& advice = {}) {
    std::ostringstream message;
    message.precision(std::numeric_limits<double>::max_digits10);
    message << name << ": expected " << expected << ", found " << found << (advice.empty() ? "" : "; ") << advice;
    throw std::invalid_argument(message.str());
}

/// Refuses a number that names no choice of an enumeration whose last one this is.
template <class Choice>
void require_choice(const std::string& name, Choice value, Choice last) {
    if (value <= last) return;
    throw std::invalid_argument(name + ": unknown value " + std::to_string(static_cast<int>(value)));
}

template <class Number>
void require(const char* name, Number value, const Domain& domain) {
    if (!domain.contains(static_cast<double>(value))) refuse(name, domain.description, value, domain.advice);
}

inline void require_not_negative(const char* name, double value) {
    require(name, value, domains::not_negative);
}

inline void require_positive(const char* name, double value) {
    require(name, value, domains::positive);
}

inline void require_below_one(const char* name, double value) {
    require(name, value, domains::from_0_below_1);
}

// A hyperparameter by its type. One that is a function of the step is checked when it is called.
inline void require_field(const char*, bool, const Domain&) {}
inline void require_field(const char*, DType, const Domain&) {}
inline void require_field(const char* name, RowUpdates value, const Domain&) {
    require_choice(name, value, RowUpdates::caught_up);
}
inline void require_field(const char* name, SlotDType value, const Domain&) {
    require_choice(name, value, SlotDType::float8);
}
inline void require_field(const char* name, const std::map<std::string, SlotDType>& values, const Domain&) {
    for (const auto& [variable, value] : values) {
        require_choice(std::string(name) + "['" + variable + "']", value, SlotDType::float8);
    }
}
inline void require_field(const char* name, double value, const Domain& domain) {
    require(name, value, domain);
}
inline void require_field(const char* name, std::int64_t value, const Domain& domain) {
    require(name, value, domain);
}
inline void require_field(const char* name, const Hyperparameter& value, const Domain& domain) {
    if (value.is_number()) require(name, value.value(), domain);
}
template <class Value>
void require_field(const char* name, const std::optional<Value>& value, const Domain& domain) {
    if (value) require_field(name, *value, domain);
}
template <class Result, class... Arguments>
void require_field(const char* name, const std::function<Result(Arguments...)>& function, const Domain&) {
    if (!function) throw std::invalid_argument(std::string(name) + ": expected a function, found none");
}

/// Scalars are computed in double, which holds each integer up to this one.
inline constexpr std::int64_t largest_count = std::int64_t{1} << 53;

inline void require_counter(const char* name, std::int64_t value, std::int64_t largest = largest_count) {
    if (value >= 0 && value <= largest) return;
    throw std::invalid_argument(std::string(name) + ": expected a count from 0 to " + std::to_string(largest) +
                                ", found " + std::to_string(value) + "; set the true count");
}

/// For a counter that a step is about to advance, and that the caller can write through its live view.
inline void require_room(const char* name, std::int64_t value) {
    require_counter(name, value, largest_count - 1);
}

inline void require_evaluation_weights(bool has_any) {
    if (!has_any) {
        throw std::invalid_argument(
            "evaluation_weights: expected moving averages or a schedule-free rule, found neither; "
            "make the optimizer with use_ema, or evaluate with the variables as they are");
    }
}

inline void require_evaluating(bool is_evaluating) {
    if (!is_evaluating) throw std::invalid_argument("end_evaluation: expected an evaluation under way, found none");
}

}  // namespace fusedopt
