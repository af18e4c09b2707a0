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
    RandomBits(std::uint32_t first, std::uint32_t step) : first_(first), step_(step) {}

    FUSEDOPT_INLINE std::uint32_t step() const { return step_; }
    FUSEDOPT_INLINE std::uint32_t at(std::int64_t i) const { return first_ + static_cast<std::uint32_t>(i) * step_; }

private:
    std::uint32_t first_, step_;
};

/// Where the random bits of a tile's streams come from. Stream 0 is that of the variable, 1 that of its first slot.
class RandomSource {
public:
    /// For the elements from `begin` on, which are of one tile of a variable whose first tile has this number.
    RandomSource(std::uint64_t seed, std::uint64_t first_tile, std::int64_t begin)
        : key_(mixed(mixed(seed) + first_tile + static_cast<std::uint64_t>(begin / tile))),
          place_(static_cast<std::uint32_t>(begin % tile)) {}

    FUSEDOPT_INLINE RandomBits stream(int number) const {
        const std::uint64_t key = mixed(key_ + static_cast<std::uint64_t>(number) * golden);
        const std::uint32_t step = static_cast<std::uint32_t>(key >> 32) | 1u;
        return {static_cast<std::uint32_t>(key) + place_ * step, step};
    }

private:
    static constexpr std::uint64_t golden = 0x9e3779b97f4a7c15u;

    FUSEDOPT_INLINE static std::uint64_t mixed(std::uint64_t x) {
        x += golden;
        x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
        x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
        return x ^ (x >> 31);
    }

    std::uint64_t key_;
    std::uint32_t place_;
};

/// Those of the first elements side by side, and how much is added to them from one group of elements to the next one.
/// To move them on in place would take as many stores more.
template <int lanes>
struct RandomLanes {
    alignas(64) std::uint32_t first[lanes];
    std::uint32_t step;

    FUSEDOPT_INLINE explicit RandomLanes(const RandomBits& random) : step(lanes * random.step()) {
#pragma omp simd
        for (int l = 0; l < lanes; ++l) first[l] = random.at(l);
    }
};

// To one of the two neighbours, and to each the more often the nearer it is, so that the mean is the number itself.
// Random bits are added below the last bit that stays, and the rest is cut off. Not beyond the largest finite number.

inline constexpr std::uint32_t largest_float16 = 0x477fe000u, largest_bfloat16 = 0x7f7f0000u;  // as float32

FUSEDOPT_INLINE std::uint32_t round_float16(std::uint32_t magnitude, std::uint32_t random) {
    constexpr std::uint32_t smallest_normal = 113u << 23;  // 2^-14
    const std::uint32_t normal = (magnitude + (random & 0x1fffu) - (112u << 23)) >> 13;
    // In multiples of 2^-45. Float16's subnormal numbers are those of 2^-24.
    const float small = magnitude < smallest_normal ? float_of(magnitude) : 0.0f;
    const auto multiple = static_cast<std::uint32_t>(static_cast<std::int32_t>(small * 0x1p45f));
    const std::uint32_t subnormal = (multiple + (random & 0x1fffffu)) >> 21;
    return magnitude < smallest_normal ? subnormal : normal;
}

/// Elements of bfloat16 that are rounded at a time.
inline constexpr int rounded_at_once = 32;

/// Beyond the largest finite number nothing is added.
FUSEDOPT_INLINE std::uint16_t rounded_bfloat16(float x, std::uint32_t random) {
    const std::uint32_t bits = bits_of(x);
    const std::uint32_t added = (bits & 0x7fffffffu) <= largest_bfloat16 ? random & 0xffffu : 0;
    return static_cast<std::uint16_t>((bits + added) >> 16);
}

FUSEDOPT_NOINLINE void round_bfloat16(const float* in, std::int64_t n, const RandomBits& random, std::uint16_t* out) {
    const RandomLanes<rounded_at_once> lanes(random);
    std::uint32_t moved = 0;
    const auto round = [&](const float* __restrict x, std::uint16_t* __restrict codes) __attribute__((always_inline)) {
#pragma omp simd
        for (int l = 0; l < rounded_at_once; ++l) codes[l] = rounded_bfloat16(x[l], lanes.first[l] + moved);
        moved += lanes.step;
    };
    std::int64_t i = 0;
    for (; i + rounded_at_once <= n; i += rounded_at_once) round(in + i, out + i);
    if (i < n) {
        alignas(64) float rest[rounded_at_once] = {};
        alignas(64) std::uint16_t rounded[rounded_at_once];
        __builtin_memcpy(rest, in + i, static_cast<unsigned long>(n - i) * sizeof(float));
        round(rest, rounded);
        __builtin_memcpy(out + i, rounded, static_cast<unsigned long>(n - i) * sizeof(std::uint16_t));
    }
}

FUSEDOPT_NOINLINE void round_float16(const float* in, std::int64_t n, const RandomBits& random, std::uint16_t* out) {
    narrow_float16(in, n, out);  // stays what it is beyond the largest finite number
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        const std::uint32_t bits = bits_of(in[i]);
        const std::uint32_t magnitude = bits & 0x7fffffffu;
        const std::uint32_t rounded = ((bits >> 16) & 0x8000u) | round_float16(magnitude, random.at(i));
        out[i] = static_cast<std::uint16_t>(magnitude <= largest_float16 ? rounded : out[i]);
    }
}

/// All of these elements are of one tile.
FUSEDOPT_INLINE void narrow_at_random(Element element, const float* in, std::int64_t n, const RandomBits& random,
                                      std::uint16_t* out) {
    if (element == Element::float16) {
        round_float16(in, n, random, out);
    } else {
        round_bfloat16(in, n, random, out);
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
