// Rounding at random: random bits for weights and slots, and the narrowing to float16 and bfloat16 that a variable
// without a master copy needs.
#pragma once

#include "kernel/convert.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// Random bits for the elements of a tile: a sequence with a random start and a random odd step. So each element's are
/// uniform. Those of two elements differ by a random odd multiple of their distance, and those of two tiles, streams or
/// seeds have nothing in common. That is enough for unbiased rounding, at one addition an element. The key is a 64-bit
/// hash with SplitMix64's shifts and factors.
class RandomBits {
public:
    /// Stream 0 is that of the variable, 1 that of its first slot. `place` is the first element's in its tile.
    RandomBits(std::uint64_t seed, std::uint64_t tile_number, int stream, std::int64_t place) {
        const std::uint64_t tile_key = mixed(mixed(seed) + tile_number);
        const std::uint64_t key = mixed(tile_key + static_cast<std::uint64_t>(stream) * golden);
        second_ = static_cast<std::uint32_t>(key >> 32) | 1u;
        first_ = static_cast<std::uint32_t>(key) + static_cast<std::uint32_t>(place) * second_;
    }

    /// The elements from `begin` on of a variable whose first tile has this number.
    static RandomBits of(std::uint64_t seed, std::uint64_t first_tile, int stream, std::int64_t begin) {
        return {seed, first_tile + static_cast<std::uint64_t>(begin / tile), stream, begin % tile};
    }

    /// The same for all elements.
    static RandomBits constant(std::uint32_t bits) { return {bits, 0}; }

    FUSEDOPT_INLINE std::uint32_t step() const { return second_; }
    FUSEDOPT_INLINE std::uint32_t at(std::int64_t i) const { return first_ + static_cast<std::uint32_t>(i) * second_; }

private:
    RandomBits(std::uint32_t first, std::uint32_t second) : first_(first), second_(second) {}

    static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15u;

    static std::uint64_t mixed(std::uint64_t x) {
        x += golden;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        return x ^ (x >> 31);
    }

    std::uint32_t first_, second_;
};

// To one of the two neighbours, and to each the more often the nearer it is, so that the mean is the number itself.
// Random bits are added below the last bit that stays, and the rest is cut off. Not beyond the largest finite number.

inline constexpr std::uint32_t largest_float16 = 0x477fe000u, largest_bfloat16 = 0x7f7f0000u;  // as float32

FUSEDOPT_INLINE std::uint32_t round_bfloat16(std::uint32_t magnitude, std::uint32_t random) {
    return (magnitude + (random & 0xffffu)) >> 16;
}

FUSEDOPT_INLINE std::uint32_t round_float16(std::uint32_t magnitude, std::uint32_t random) {
    constexpr std::uint32_t smallest_normal = 113u << 23;  // 2^-14
    const std::uint32_t normal = (magnitude + (random & 0x1fffu) - (112u << 23)) >> 13;
    // In multiples of 2^-45. Float16's subnormal numbers are those of 2^-24.
    const float small = magnitude < smallest_normal ? float_of(magnitude) : 0.0f;
    const auto multiple = static_cast<std::uint32_t>(static_cast<std::int32_t>(small * 0x1p45f));
    const std::uint32_t subnormal = (multiple + (random & 0x1fffffu)) >> 21;
    return magnitude < smallest_normal ? subnormal : normal;
}

template <class Round>
FUSEDOPT_INLINE void narrow_at_random(const float* in, std::int64_t n, const RandomBits& random, std::uint32_t largest,
                                      std::uint16_t* out, const Round& round) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        const std::uint32_t bits = bits_of(in[i]);
        const std::uint32_t magnitude = bits & 0x7fffffffu;
        const std::uint32_t rounded = ((bits >> 16) & 0x8000u) | round(magnitude, random.at(i));
        out[i] = static_cast<std::uint16_t>(magnitude <= largest ? rounded : out[i]);
    }
}

/// All of these elements are of one tile.
FUSEDOPT_NOINLINE void narrow_at_random(Element element, const float* in, std::int64_t n, RandomBits random,
                                        void* out) {
    narrow(element, in, n, out);  // stays what it is beyond the largest finite number
    auto* bits = static_cast<std::uint16_t*>(out);
    if (element == Element::float16) {
        narrow_at_random(in, n, random, largest_float16, bits, round_float16);
    } else {
        narrow_at_random(in, n, random, largest_bfloat16, bits, round_bfloat16);
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
