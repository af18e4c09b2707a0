// What the programs here work on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

/// Arrays out of one block. Where they begin a power of two apart they meet in the same cache sets: see STAGGER in
/// workload.py.
class Arrays {
public:
    Arrays(std::size_t count, std::int64_t size)
        : size_(static_cast<std::size_t>(size)), block_(count * (size_ + stagger)) {
        for (std::size_t i = 0; i < block_.size(); ++i) block_[i] = 0.01f * static_cast<float>(i % 127) - 0.505f;
    }

    std::span<float> operator[](std::size_t i) { return std::span(block_).subspan(i * (size_ + stagger), size_); }

private:
    static constexpr std::size_t stagger = (32 * 1024 + 17 * 64) / sizeof(float);

    std::size_t size_;
    std::vector<float> block_;
};
