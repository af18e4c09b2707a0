// The border to the plain loop that benchmarks compare with.
#pragma once

#include "kernel/kernel.hpp"

namespace fusedopt::kernel {

inline constexpr int most_updated = 5;
inline constexpr int most_read = 2;

/// The arrays of one tensor that the benchmarks' plain loop moves.
struct Moved {
    float* updated[most_updated];
    const float* read[most_read];
    const std::uint16_t* narrow;  // read, too; null: none
    int updated_count;
    int read_count;
};

}  // namespace fusedopt::kernel
