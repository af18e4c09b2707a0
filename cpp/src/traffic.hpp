// The limit benchmarks compare with, on the same threads and in the same shares as a step.
#pragma once

#include <cstdint>
#include <span>

namespace fusedopt {

/// Reads and writes `updated` and reads `read`, arrays of `size` float32 elements, in the plainest possible loop.
void move_bytes(std::span<void* const> updated, std::span<const void* const> read, std::int64_t size);

}  // namespace fusedopt
