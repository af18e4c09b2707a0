// What a fuzzer's bytes decide, one choice after the other. Behind the last byte every choice is the first one.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>

class Bytes {
public:
    explicit Bytes(std::span<const std::uint8_t> bytes) : rest_(bytes) {}

    bool empty() const { return rest_.empty(); }

    std::uint8_t byte() {
        if (rest_.empty()) return 0;
        const std::uint8_t first = rest_.front();
        rest_ = rest_.subspan(1);
        return first;
    }

    std::size_t below(std::size_t count) { return byte() % count; }

    /// True in one of `count` cases.
    bool once_in(std::size_t count) { return below(count) == count - 1; }

    double number() {
        constexpr double usual[] = {0.5,  0.9,  0.0,  1.0,  1e-3, 2.0, 1e-8,  -1.0,   0.999, 3.0,
                                    -0.0, 1e30, 1e38, 1e39, 7.0,  0.1, 1e-38, 1e-320, 1e300, -0.5};
        constexpr double strange[] = {std::numeric_limits<double>::infinity(), -std::numeric_limits<double>::infinity(),
                                      std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::max()};
        const std::size_t choice = below(32);
        if (choice < std::size(usual)) return usual[choice];
        if (choice < std::size(usual) + std::size(strange)) return strange[choice - std::size(usual)];
        return std::bit_cast<double>(word());
    }

    std::int64_t integer() {
        constexpr std::int64_t usual[] = {1, 2, 0, 3, -1, 5, 64, std::numeric_limits<std::int64_t>::max()};
        const std::size_t choice = below(9);
        return choice < std::size(usual) ? usual[choice] : static_cast<std::int64_t>(word());
    }

    std::uint64_t word() {
        std::uint64_t bits = 0;
        for (int i = 0; i < 8; ++i) bits = bits << 8 | byte();
        return bits;
    }

private:
    std::span<const std::uint8_t> rest_;
};
