// Codes of slots by the book, element by element, to hold the kernels against; and slots in memory as a job has them.
// One file, though long: the codes, and the memory that holds them.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <optional>
#include <vector>

#include "sweeps.hpp"

namespace codes {

using Floats = std::vector<float>;

inline constexpr kernel::SlotCode all_codes[] = {kernel::SlotCode::bfloat16, kernel::SlotCode::float8};

inline std::uint32_t bits_of(float x) {
    return std::bit_cast<std::uint32_t>(x);
}

inline std::uint32_t magnitude_of(float x) {
    return bits_of(x) & 0x7fffffffu;
}

/// Whether all bits are the same. A NaN is one, whatever its bits.
inline bool same(const Floats& a, const Floats& b) {
    return std::ranges::equal(
        a, b, [](float x, float y) { return bits_of(x) == bits_of(y) || (std::isnan(x) && std::isnan(y)); });
}

// Random bits.

inline std::uint64_t mixed(std::uint64_t x) {
    x += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/// Those of element i of a variable. Stream 0 is the variable's, 1 its first slot's.
inline std::uint32_t random_bits(std::uint64_t seed, std::uint64_t first_tile, std::uint64_t stream, std::int64_t i) {
    const auto tile = static_cast<std::uint64_t>(i / kernel::tile),
               place = static_cast<std::uint64_t>(i % kernel::tile);
    const std::uint64_t key = mixed(mixed(mixed(seed) + first_tile + tile) + stream * 0x9e3779b97f4a7c15u);
    return static_cast<std::uint32_t>(key + place * ((key >> 32) | 1u));
}

// 16 bits.

inline std::uint16_t nearest_bfloat16(float x) {
    if (std::isnan(x)) return static_cast<std::uint16_t>((bits_of(x) >> 16) | 0x40u);
    const std::uint32_t down = bits_of(x) >> 16, rest = bits_of(x) & 0xffffu;
    return static_cast<std::uint16_t>(down + (rest > 0x8000u || (rest == 0x8000u && down % 2 == 1) ? 1 : 0));
}

inline std::uint16_t random_bfloat16(float x, std::uint32_t random) {
    const std::uint32_t added = magnitude_of(x) > 0x7f7f0000u ? 0 : random & 0xffffu;
    return static_cast<std::uint16_t>((bits_of(x) + added) >> 16);
}

inline float from_bfloat16(std::uint16_t code) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(code) << 16);
}

// 8 bits.

struct Block {
    std::array<std::uint8_t, 64> codes{};
    int base = 0;
    bool fine = false, special = false;

    int cut() const { return fine ? 19 : 20; }
    bool operator==(const Block&) const = default;
};

/// What a code says.
inline float decoded(const Block& block, std::size_t i, bool is_signed) {
    const std::uint32_t code = block.codes[i], base = static_cast<std::uint32_t>(block.base) << 23;
    if (!is_signed) {
        if (block.special && code >= 254) return code == 255 ? HUGE_VALF : NAN;
        return code == 0 ? 0.0f : std::bit_cast<float>((code << block.cut()) + base);
    }
    const std::uint32_t magnitude = code & 0x7fu;
    if (block.special && magnitude == 126) return NAN;
    const float x = block.special && magnitude == 127
                        ? HUGE_VALF
                        : std::bit_cast<float>((magnitude << block.cut()) + base) - std::bit_cast<float>(base);
    return code >= 128 && magnitude > 0 ? -x : x;
}

/// The numbers of one slot's block, and how they are rounded: random bits, or to the nearest without.
struct Given {
    std::array<float, 64> numbers{};
    std::optional<std::array<std::uint32_t, 64>> random;
    bool is_signed = false;

    bool is_huge() const {
        return std::ranges::any_of(numbers, [](float x) { return magnitude_of(x) >= 0x7f600000u; });
    }
    int top(int cut) const {
        std::uint32_t top = 0;
        for (const float x : numbers) {
            if (std::isfinite(x)) top = std::max(top, magnitude_of(x));
        }
        return static_cast<int>((top + (3u << cut)) >> 23);
    }
    /// Whether all numbers but zeros have so many binades at most from the largest one's.
    bool is_close(int binades) const {
        if (is_signed || is_huge()) return false;
        int lowest = 1000;
        for (const float x : numbers) {
            if (magnitude_of(x) > 0) lowest = std::min(lowest, static_cast<int>(magnitude_of(x) >> 23));
        }
        return lowest < 1000 && lowest >= top(19) - binades;
    }
};

inline Block encoded(const Given& given, int base, bool fine) {
    Block block{.base = base, .fine = fine};
    const int cut = block.cut();
    const auto base_bits = static_cast<std::int64_t>(base) << 23;
    const std::int64_t finite = (0x7f7fffff - base_bits) >> cut;
    const bool is_huge = given.is_huge();
    for (std::size_t i = 0; i < 64; ++i) {
        const float x = given.numbers[i];
        const auto random = given.random ? static_cast<std::int64_t>((*given.random)[i] % (1u << cut)) : 1 << (cut - 1);
        const float magnitude = magnitude_of(x) < 0x00800000u ? 0.0f : std::fabs(x);
        const float moved = given.is_signed ? magnitude + std::bit_cast<float>(base << 23) : x;
        std::int64_t code = (static_cast<std::int64_t>(bits_of(moved)) + random - base_bits) >> cut;
        if (!given.is_signed) code = magnitude_of(x) == 0 ? 0 : std::max<std::int64_t>(code, 1);
        if (is_huge) {
            const std::int64_t last = given.is_signed ? 127 : 255;
            code = std::isnan(x) ? last - 1 : std::isinf(x) ? last : std::min({code, last - 2, finite});
            block.special |= !std::isfinite(x);
        }
        block.codes[i] = static_cast<std::uint8_t>(code | (given.is_signed && std::signbit(x) ? 0x80 : 0));
    }
    return block;
}

inline Block encoded(const Given& given, bool fine) {
    if (given.is_signed)
        return encoded(given, std::max(given.top(fine ? 19 : 20) - (fine ? 7 : 15), fine ? 5 : 4), fine);
    return encoded(given, std::max(given.top(fine ? 19 : 20) - (fine ? 15 : 31), 1), fine);
}

/// Blocks of all slots of a variable, of which two may be guarded.
inline std::vector<Block> encoded(const std::vector<Given>& given, const kernel::Guard& guard) {
    const auto small = static_cast<std::size_t>(guard.small), large = static_cast<std::size_t>(guard.large);
    const double floor = guard.floor * (guard.power == 1 ? 1.125 : 1.266);
    const bool guards = guard.power > 0 && floor >= 0x1p-126;
    std::vector<Block> blocks;
    for (std::size_t k = 0; k < given.size(); ++k) {
        const bool is_large = guards && k == large;
        const bool close = given[k].is_close(is_large && guard.power == 1 ? 7 : 14);
        blocks.push_back(encoded(given[k], close && !(is_large && given[small].is_huge())));
    }
    if (!guards) return blocks;
    blocks[small] = encoded(given[small], blocks[large].fine);
    const int cut = blocks[large].cut(), steps = 1 << (23 - cut);
    const auto floor_codes = static_cast<int>((bits_of(static_cast<float>(floor)) + (1u << cut) - 1) >> cut);
    const auto distance = [&](int base) {
        return steps * (base + guard.power * (127 - blocks[small].base)) - floor_codes;
    };
    int base = blocks[large].base;
    while (distance(base) < 0 && base < 240) ++base;
    blocks[large] = encoded(given[large], base, blocks[large].fine);
    const int last = std::min(blocks[large].special ? 253 : 255, (0x7f7fffff - (base << 23)) >> cut);
    for (std::size_t i = 0; i < 64; ++i) {
        const int magnitude = blocks[small].codes[i] & 0x7f;
        if (magnitude == 0 || (blocks[small].special && magnitude >= 126)) continue;
        const int least = std::min(guard.power * magnitude - distance(base), last);
        blocks[large].codes[i] = static_cast<std::uint8_t>(std::max<int>(blocks[large].codes[i], least));
    }
    return blocks;
}

// Memory.

/// A slot as it lies in memory, codes with their scales behind them.
class Slot {
public:
    Slot(kernel::SlotCode code, std::int64_t size)
        : code_(code), size_(size), bytes_(static_cast<std::size_t>(size_bytes()) / 64 + 1) {}

    void* data() { return bytes_.data(); }
    void set(std::int64_t b, const Block& block) {
        auto* const first = reinterpret_cast<std::uint8_t*>(bytes_.data());
        for (std::size_t i = 0; i < 64; ++i) {
            first[static_cast<std::size_t>(b) * 64 + 4 * (i % 16) + i / 16] = block.codes[i];
        }
        const auto scale =
            static_cast<std::uint16_t>(block.base | (block.fine ? 0x4000 : 0) | (block.special ? 0x8000 : 0));
        std::memcpy(first + scales() + 2 * b, &scale, 2);
    }
    void set_half(std::int64_t i, std::uint16_t half) {
        std::memcpy(reinterpret_cast<std::uint8_t*>(bytes_.data()) + 2 * i, &half, 2);
    }
    std::int64_t blocks() const { return (size_ + 63) / 64; }
    /// From the first code to the first scale.
    std::int64_t scales() const { return blocks() * 64; }

    Block block(std::int64_t b) const {
        const auto* const first = reinterpret_cast<const std::uint8_t*>(bytes_.data());
        Block block;
        for (std::size_t i = 0; i < 64; ++i) {
            block.codes[i] = first[static_cast<std::size_t>(b) * 64 + 4 * (i % 16) + i / 16];
        }
        std::uint16_t scale;
        std::memcpy(&scale, first + scales() + 2 * b, 2);
        block.base = scale & 0xff;
        block.fine = (scale & 0x4000) != 0;
        block.special = (scale & 0x8000) != 0;
        return block;
    }
    std::uint16_t half(std::int64_t i) const {
        std::uint16_t half;
        std::memcpy(&half, reinterpret_cast<const std::uint8_t*>(bytes_.data()) + 2 * i, 2);
        return half;
    }
    /// What its codes say.
    Floats numbers(bool is_signed) const {
        Floats numbers;
        if (code_ == kernel::SlotCode::bfloat16) {
            for (std::int64_t i = 0; i < size_; ++i) numbers.push_back(from_bfloat16(half(i)));
            return numbers;
        }
        for (std::int64_t b = 0; b < blocks(); ++b) {
            const Block block = this->block(b);
            for (std::int64_t i = 64 * b; i < std::min(64 * b + 64, size_); ++i) {
                numbers.push_back(decoded(block, static_cast<std::size_t>(i % 64), is_signed));
            }
        }
        return numbers;
    }
    bool operator==(const Slot& other) const {
        return std::memcmp(bytes_.data(), other.bytes_.data(), static_cast<std::size_t>(size_bytes())) == 0;
    }

private:
    std::int64_t size_bytes() const { return code_ == kernel::SlotCode::bfloat16 ? 2 * size_ : 66 * blocks(); }

    struct alignas(64) Line {
        std::byte bytes[64] = {};
    };
    kernel::SlotCode code_;
    std::int64_t size_;
    std::vector<Line> bytes_;
};

/// All slots of a variable.
struct Slots {
    kernel::SlotCode code;
    std::int64_t size;
    std::vector<Slot> slots;

    Slots(kernel::SlotCode slot_code, std::int64_t elements, std::size_t count)
        : code(slot_code), size(elements), slots(count, Slot(slot_code, elements)) {}

    /// The same job, with these slots in the place of its first ones.
    kernel::Job in(const kernel::Job& of_floats) {
        kernel::Job job = of_floats;
        job.size = size;
        for (std::size_t k = 0; k < slots.size(); ++k) job.slots[k] = slots[k].data();
        job.slot_code = code;
        job.scales = slots[0].scales();
        return job;
    }

    void load(const kernel::Step& step, const std::vector<Floats>& numbers) {
        const float* values[kernel::max_slots] = {};
        for (std::size_t k = 0; k < slots.size(); ++k) values[k] = numbers[k].data();
        const fusedopt::FloatEnvironment environment;
        fusedopt::current_kernels().encode_slots(step, in({}), 0, size, values);
    }

    Floats decoded(std::size_t k, bool is_signed) {
        Floats numbers(static_cast<std::size_t>(size));
        const fusedopt::FloatEnvironment environment;
        fusedopt::current_kernels().decode_slot(in({}), static_cast<int>(k), is_signed, 0, size, numbers.data());
        return numbers;
    }

    /// The same slots with these numbers, by the book: rounded at random in a step, or else to the nearest.
    Slots expected(const kernel::Step& step, const std::vector<Floats>& numbers, bool at_random,
                   std::uint64_t first_tile = 0) const {
        Slots coded(code, size, slots.size());
        const auto random = [&](std::size_t k, std::int64_t i) { return random_bits(step.seed, first_tile, 1 + k, i); };
        if (code == kernel::SlotCode::bfloat16) {
            for (std::size_t k = 0; k < slots.size(); ++k) {
                for (std::int64_t i = 0; i < size; ++i) {
                    const float x = numbers[k][static_cast<std::size_t>(i)];
                    coded.slots[k].set_half(i, at_random ? random_bfloat16(x, random(k, i)) : nearest_bfloat16(x));
                }
            }
            return coded;
        }
        for (std::int64_t b = 0; b < slots[0].blocks(); ++b) {
            std::vector<Given> given(slots.size());
            for (std::size_t k = 0; k < slots.size(); ++k) {
                given[k].is_signed = step.is_signed[k];
                if (at_random) given[k].random.emplace();
                for (std::int64_t i = 64 * b; i < std::min(64 * b + 64, size); ++i) {
                    const auto place = static_cast<std::size_t>(i % 64);
                    given[k].numbers[place] = numbers[k][static_cast<std::size_t>(i)];
                    if (at_random) (*given[k].random)[place] = random(k, i);
                }
            }
            const std::vector<Block> blocks = encoded(given, step.guard);
            for (std::size_t k = 0; k < slots.size(); ++k) coded.slots[k].set(b, blocks[k]);
        }
        return coded;
    }
};

}  // namespace codes
