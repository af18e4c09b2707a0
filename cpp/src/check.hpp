// Range checks of hyperparameters; every message names the argument, what was expected and what was found.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>
#include <sstream>
#include <stdexcept>
#include <string>

namespace fusedopt {

[[noreturn]] inline void refuse(const std::string& name, const std::string& expected, double found) {
    std::ostringstream message;
    message.precision(std::numeric_limits<double>::max_digits10);
    message << name << ": expected " << expected << ", found " << found;
    throw std::invalid_argument(message.str());
}

inline void require_finite(const char* name, double value) {
    if (!std::isfinite(value)) refuse(name, "a finite number", value);
}

inline void require_not_negative(const char* name, double value) {
    if (!(value >= 0.0 && std::isfinite(value))) refuse(name, "a finite number >= 0", value);
}

inline void require_positive(const char* name, double value) {
    if (!(value > 0.0 && std::isfinite(value))) refuse(name, "a finite number > 0", value);
}

// Below float32's smallest normal number it would be flushed to zero, and 0 / 0 would follow.
inline void require_epsilon(double value) {
    if (!(value >= std::numeric_limits<float>::min() && std::isfinite(value))) {
        refuse("epsilon", "a finite number >= 1.18e-38, the smallest normal float32", value);
    }
}

inline void require_below_one(const char* name, double value) {
    if (!(value >= 0.0 && value < 1.0)) refuse(name, "a number in [0, 1)", value);
}

inline void require_at_most_one(const char* name, double value) {
    if (!(value >= 0.0 && value <= 1.0)) refuse(name, "a number in [0, 1]", value);
}

inline void require_count(const char* name, std::int64_t value, std::int64_t least) {
    if (value >= least) return;
    throw std::invalid_argument(std::string(name) + ": expected an integer >= " + std::to_string(least) + ", found " +
                                std::to_string(value));
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
