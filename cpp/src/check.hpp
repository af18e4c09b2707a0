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
    if (value < least) refuse(name, "an integer >= " + std::to_string(least), static_cast<double>(value));
}

}  // namespace fusedopt
