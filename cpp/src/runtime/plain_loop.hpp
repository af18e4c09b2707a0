// The limit that benchmarks compare with. It runs on the same threads and in the same shares as a step.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/plan.hpp"
#include "kernel/border/plain_loop.hpp"

namespace fusedopt {

/// Reads and writes some arrays of each tensor and reads others, in the plainest possible loop.
class PlainLoop {
public:
    /// Arrays of `size` elements. `narrow` is read, too, and has 16 bits an element, or is null.
    void add(std::span<float* const> updated, std::span<const float* const> read, const std::uint16_t* narrow,
             std::int64_t size);

    /// Arrays of `size` words, whatever their bits are.
    void add_words(std::span<std::uint32_t* const> updated, std::span<const std::uint32_t* const> read,
                   std::int64_t size);

    void run() const;

private:
    kernel::Moved& added(std::size_t updated, std::size_t read, std::int64_t size);

    std::vector<kernel::Moved> tensors_;
    SweepPlan plan_;
};

/// Reads and writes the same rows of some tables, and reads values for them, in the plainest possible loop.
class PlainRowLoop {
public:
    /// `rows` of the tables in the order of the loop, and in the same order the `positions` of their values. Both must
    /// outlive this. The next rows are prefetched `ahead` rows early, or not at all with 0.
    PlainRowLoop(std::span<float* const> updated, const float* read, std::span<const std::int64_t> rows,
                 std::span<const std::int64_t> positions, std::int64_t row_size, std::int64_t ahead);

    void run() const;

private:
    kernel::MovedRows moved_{};
    SweepPlan plan_;
};

}  // namespace fusedopt
