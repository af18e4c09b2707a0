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
    bool is_words;  // the pointers are to words of 32 bits, which need not be numbers
};

/// Rows of tables that the plain loop updates, and the values that it reads for them.
struct MovedRows {
    float* updated[most_updated];
    const float* read;
    int updated_count;
    std::int64_t row_size;
    std::int64_t count;
    const std::int64_t* rows;       // of the tables, in the order of the loop
    const std::int64_t* positions;  // of the values, in the same order
    std::int64_t ahead;             // rows from what is moved to what is prefetched; 0: nothing is
};

}  // namespace fusedopt::kernel
