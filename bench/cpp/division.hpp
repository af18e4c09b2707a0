// Adam's loop with each way to divide and to take a root, in vectors of one width, and what the hardware's units need
// alone. Data only, as each width is compiled for machines of its own: division_loops.cpp defines these lists per
// width.
#pragma once

#include <cstdint>

struct Way {
    const char* name;
    /// A step: variable, gradient, momentum, velocity, and how many elements they have, a multiple of 32.
    void (*step)(float* w, const float* g, float* m, float* v, std::int64_t size);
};

struct Units {
    const char* name;
    /// The operations for so many elements, a multiple of 16, from registers to registers and independent of each
    /// other.
    void (*run)(std::int64_t size);
};

namespace wide_256 {
extern const Way ways[5];
extern const Units units[4];
}  // namespace wide_256

namespace wide_512 {
extern const Way ways[5];
extern const Units units[4];
}  // namespace wide_512
