// Numbers into codes of 8 bits; kernel/float8.hpp tells what they are. Constants of a block come from memory, where
// they cost nothing to spread over a register.
#pragma once

#include "kernel/float8_scales.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// Random bits for the elements of one block after the other.
struct BlockBits {
    alignas(64) std::uint32_t first[block_words];
    std::uint32_t steps[5];  // from an element of a word to those of the other bytes, and to the next block's

    explicit BlockBits(const RandomBits& random) {
#pragma omp simd
        for (int l = 0; l < block_words; ++l) first[l] = random.at(l);
        for (std::uint32_t j = 0; j < 5; ++j) steps[j] = j * block_words * random.step();
    }

    std::uint32_t at(int i) const { return first[i % block_words] + steps[i / block_words]; }
    void skip() {
        for (std::uint32_t& bits : first) bits += steps[4];
    }
};

struct ByteMasks {
    std::uint32_t sign, upper_half, even, odd, even_magnitudes, odd_magnitudes, even_signs, odd_signs;
};
inline constexpr ByteMasks byte_masks = {sign_bit,    0xffff0000u, 0x00ff00ffu, 0xff00ff00u,
                                         0x007f007fu, 0x7f007f00u, 0x00800080u, 0x80008000u};

/// Those of x where the mask has ones. Written so that compilers find the one instruction for it.
FUSEDOPT_INLINE std::uint32_t choose_bits(std::uint32_t mask, std::uint32_t x, std::uint32_t otherwise) {
    return (x & mask) | (otherwise & ~mask);
}

FUSEDOPT_INLINE void encode_signed(const float* __restrict x, const BlockGroup& scales, int b, const ByteMasks& masks,
                                   BlockBits& __restrict random, std::uint32_t* __restrict out) {
    const std::uint32_t base = scales.base_bits[b], minus_base = scales.minus_base[b], below = scales.below[b];
    const int cut = scales.cut[b];
#pragma omp simd
    for (int l = 0; l < block_words; ++l) {
        const std::uint32_t r = random.first[l];
        // The sign on top, and the code from `cut` on.
        const auto moved = [&](int j) __attribute__((always_inline)) {
            const float number = x[16 * j + l];
            return bits_of(number + float_of((bits_of(number) & masks.sign) | base)) +
                   (((j == 0 ? r : r + random.steps[j]) & below) | minus_base);
        };
        const std::uint32_t even = moved(0) >> 16 | (moved(2) & masks.upper_half);
        const std::uint32_t odd = moved(1) >> 16 | (moved(3) & masks.upper_half);
        const std::uint32_t low = choose_bits(masks.even_magnitudes, even >> (cut - 16), even >> 8);
        const std::uint32_t high = choose_bits(masks.odd_magnitudes, odd << (24 - cut), odd);
        out[l] = choose_bits(masks.even, low, high);
        random.first[l] = r + random.steps[4];
    }
}

FUSEDOPT_INLINE void encode_unsigned(const float* __restrict x, const BlockGroup& scales, int b, const ByteMasks& masks,
                                     BlockBits& __restrict random, std::uint32_t* __restrict out) {
    const std::uint32_t minus_base = scales.minus_base[b], below = scales.below[b];
    const int cut = scales.cut[b];
    const auto least = static_cast<std::int32_t>(below + 1);
#pragma omp simd
    for (int l = 0; l < block_words; ++l) {
        const std::uint32_t r = random.first[l];
        const auto moved = [&](int j) __attribute__((always_inline)) {
            const std::uint32_t bits = bits_of(x[16 * j + l]);
            const auto rounded =
                static_cast<std::int32_t>(bits + (((j == 0 ? r : r + random.steps[j]) & below) | minus_base));
            const std::int32_t above = rounded > least ? rounded : least;
            const auto code = static_cast<std::uint32_t>(above);
            return code < bits ? code : bits;  // zero stays zero
        };
        const std::uint32_t even = moved(0) >> 16 | (moved(2) & masks.upper_half);
        const std::uint32_t odd = moved(1) >> 16 | (moved(3) & masks.upper_half);
        out[l] = (even >> (cut - 16) & masks.even) | (odd << (24 - cut) & masks.odd);
        random.first[l] = r + random.steps[4];
    }
}

/// The same, element by element, for blocks with huge or special numbers.
FUSEDOPT_NOINLINE void encode_huge(const float* x, bool is_signed, Scale& scale, BlockBits& random,
                                   std::uint32_t* out) {
    const SpecialCodes special = special_codes[is_signed];
    const std::uint32_t most = scale.finite_codes(special.finite);
    const std::uint32_t base = scale.base_bits(), below = (1u << scale.cut) - 1;
    for (int l = 0; l < block_words; ++l) out[l] = 0;
    for (int i = 0; i < slot_block; ++i) {
        const std::uint32_t bits = bits_of(x[i]), magnitude = bits & ~sign_bit, r = random.at(i) & below;
        std::uint32_t code;
        if (magnitude >= infinity_bits) {
            code = magnitude > infinity_bits ? special.nan : special.infinity;
            scale.has_special = true;
        } else if (is_signed) {
            code = (bits_of(float_of(magnitude) + float_of(base)) + r - base) >> scale.cut;
        } else {
            const auto rounded = static_cast<std::int32_t>(bits + r - base) >> scale.cut;
            code = static_cast<std::uint32_t>(rounded > 1 ? rounded : 1);
            code = code < bits ? code : bits;
        }
        if (magnitude < infinity_bits && code > most) code = most;
        if (is_signed) code |= bits >> 24 & 0x80u;
        out[i % block_words] |= code << (i / block_words * 8);
    }
    random.skip();
}

/// Raises codes of the large slot to power small - distance.
template <int power>
FUSEDOPT_INLINE void raise_codes(unsigned char distance, const unsigned char* __restrict small,
                                 unsigned char* __restrict large) {
#pragma omp simd
    for (int i = 0; i < slot_block; ++i) {
        const auto magnitude = static_cast<unsigned char>(small[i] & 0x7f);
        const auto moved = static_cast<unsigned char>(power == 1 ? magnitude : magnitude + magnitude);
        const auto least = static_cast<unsigned char>((moved > distance ? moved : distance) - distance);
        large[i] = large[i] > least ? large[i] : least;
    }
}

/// The same for codes of which some are special, or would be infinite.
FUSEDOPT_NOINLINE void raise_huge_codes(int power, std::int32_t distance, Scale of_small, Scale of_large,
                                        const unsigned char* small, unsigned char* large) {
    const auto most = static_cast<int>(of_large.finite_codes(of_large.has_special ? 253 : 255));
    for (int i = 0; i < slot_block; ++i) {
        const int magnitude = small[i] & 0x7f;
        if (magnitude == 0 || (of_small.has_special && magnitude > 125)) continue;
        const int wanted = power * magnitude - distance, least = wanted < most ? wanted : most;
        if (least > large[i]) large[i] = static_cast<unsigned char>(least);
    }
}

/// The blocks of a piece's slots.
struct Coding {
    const Step& step;
    const CodeGuard& guard;
    bool at_random;
    int blocks;
    float* const* numbers;  // null: a slot stays as it is
    RandomSource random;    // early, as it takes long, but waits for nothing
    bool huge[max_slots][group];
    alignas(64) std::int32_t distances[group];
    BlockGroup* slots;

    Coding(const Step& of_step, const Job& job, const CodeGuard& of_guard, bool rounds_at_random, std::int64_t begin,
           int block_count, float* const* of_slots, BlockGroup* groups)
        : step(of_step),
          guard(of_guard),
          at_random(rounds_at_random),
          blocks(block_count),
          numbers(of_slots),
          random(of_step.seed, job.first_partial, begin),
          slots(groups) {}
};

/// Finds the blocks in which not all numbers are finite and far from infinity, and makes them coarse.
FUSEDOPT_NOINLINE void mark_huge(Coding& coding) {
    constexpr std::int32_t never_close = 0x7fffffff;
    __builtin_memset(coding.huge, 0, sizeof(coding.huge));
    for (int k = 0; k < max_slots; ++k) {
        BlockGroup& slot = coding.slots[k];
        for (int b = 0; coding.numbers[k] && b < coding.blocks; ++b) {
            if (static_cast<std::uint32_t>(slot.largest[b]) < huge_bits) continue;
            coding.huge[k][b] = true;
            slot.largest[b] = static_cast<std::int32_t>(largest_finite(coding.numbers[k] + b * slot_block));
            slot.minus_smallest[b] = never_close;
            const CodeGuard& guard = coding.guard;
            if (guard.power != 0 && k == guard.small) coding.slots[guard.large].minus_smallest[b] = never_close;
        }
    }
}

/// Blocks of one slot, with their scales.
template <bool is_signed>
FUSEDOPT_NOINLINE void encode_plain(const float* x, const BlockGroup& slot, int blocks, const RandomBits& random,
                                    const Float8Memory& memory) {
    const ByteMasks* masks = &byte_masks;
    __asm__("" : "+r"(masks));  // the compiler would build each in a register, again and again
    BlockBits bits(random);
    for (int b = 0; b < blocks; ++b) {
        if constexpr (is_signed) {
            encode_signed(x + b * slot_block, slot, b, *masks, bits, memory.codes + b * block_words);
        } else {
            encode_unsigned(x + b * slot_block, slot, b, *masks, bits, memory.codes + b * block_words);
        }
        memory.scales[b] = static_cast<std::uint16_t>(slot.scales[b]);
    }
}

/// Blocks of one slot, of which some are huge, or which are rounded to the nearest.
FUSEDOPT_NOINLINE void encode_any(const Coding& coding, int k, const Float8Memory& memory) {
    const bool is_signed = coding.step.is_signed[k];
    const BlockGroup& slot = coding.slots[k];
    BlockBits bits(coding.random.stream(1 + k));
    for (int b = 0; b < coding.blocks; ++b) {
        const float* const x = coding.numbers[k] + b * slot_block;
        std::uint32_t* const codes = memory.codes + b * block_words;
        Scale scale{slot.base[b], slot.cut[b], false};
        if (!coding.at_random) bits = BlockBits(RandomBits(1u << (slot.cut[b] - 1), 0));
        if (coding.huge[k][b]) {
            encode_huge(x, is_signed, scale, bits, codes);
        } else if (is_signed) {
            encode_signed(x, slot, b, byte_masks, bits, codes);
        } else {
            encode_unsigned(x, slot, b, byte_masks, bits, codes);
        }
        memory.scales[b] = scale.code();
    }
}

FUSEDOPT_NOINLINE void guard_any(const Coding& coding, const Float8Memory& small, const Float8Memory& large) {
    for (int b = 0; b < coding.blocks; ++b) {
        raise_huge_codes(coding.guard.power, coding.distances[b], Scale::of(small.scales[b]),
                         Scale::of(large.scales[b]),
                         reinterpret_cast<const unsigned char*>(small.codes + b * block_words),
                         reinterpret_cast<unsigned char*>(large.codes + b * block_words));
    }
}

template <int power>
FUSEDOPT_NOINLINE void guard_plain(const std::int32_t* distances, int blocks, const Float8Memory& small,
                                   const Float8Memory& large) {
    for (int b = 0; b < blocks; ++b) {
        const auto distance = static_cast<unsigned char>(distances[b] < 255 ? distances[b] : 255);
        raise_codes<power>(distance, reinterpret_cast<const unsigned char*>(small.codes + b * block_words),
                           reinterpret_cast<unsigned char*>(large.codes + b * block_words));
    }
}

/// If it is measured, `slots` has what measure_blocks finds.
FUSEDOPT_INLINE void encode_piece(const Step& step, const Job& job, std::int64_t begin, std::int64_t n,
                                  float* const* numbers, bool at_random, BlockGroup* slots, bool is_measured) {
    const CodeGuard guard(step.guard, numbers);
    const auto blocks = static_cast<int>((n + slot_block - 1) / slot_block);
    if (n < blocks * slot_block) {
        for (int k = 0; k < max_slots; ++k) {
            if (!numbers[k]) continue;
            for (std::int64_t i = n; i < blocks * slot_block; ++i) numbers[k][i] = 0;
        }
    }
    Coding coding(step, job, guard, at_random, begin, blocks, numbers, slots);
    bool any_huge = false;
    for (int k = 0; k < max_slots; ++k) {
        if (!numbers[k]) continue;
        if (!is_measured) {
            const auto measure = step.is_signed[k] ? measure_blocks<true> : measure_blocks<false>;
            measure(numbers[k], blocks, slots[k]);
        }
        join_measures(step.is_signed[k], slots[k]);
        any_huge |= any_is_huge(coding.slots[k]);
    }
    const bool is_plain = at_random && !any_huge;
    if (__builtin_expect(!is_plain, false)) mark_huge(coding);
    choose_scales(step, guard, numbers, coding.slots, coding.distances);
    for (int k = 0; k < max_slots; ++k) {
        if (!numbers[k]) continue;
        const Float8Memory memory(job, k, begin);
        if (!is_plain) {
            encode_any(coding, k, memory);
        } else if (step.is_signed[k]) {
            encode_plain<true>(numbers[k], coding.slots[k], blocks, coding.random.stream(1 + k), memory);
        } else {
            encode_plain<false>(numbers[k], coding.slots[k], blocks, coding.random.stream(1 + k), memory);
        }
    }
    if (guard.power == 0) return;
    const Float8Memory small(job, guard.small, begin), large(job, guard.large, begin);
    if (__builtin_expect(any_huge || any_code_is_infinite(coding.slots[guard.large]), false)) {
        guard_any(coding, small, large);
    } else if (guard.power == 1) {
        guard_plain<1>(coding.distances, blocks, small, large);
    } else {
        guard_plain<2>(coding.distances, blocks, small, large);
    }
}

/// Codes n elements from `begin` on, which are of one tile. Behind the last one, the buffers have room for the rest of
/// its block.
inline void encode_float8(const Step& step, const Job& job, std::int64_t begin, std::int64_t n, float* const* numbers,
                          bool at_random) {
    BlockGroup slots[max_slots];
    for (std::int64_t i = 0; i < n; i += coded_piece) {
        float* piece[max_slots];
        for (int k = 0; k < max_slots; ++k) piece[k] = numbers[k] ? numbers[k] + i : nullptr;
        encode_piece(step, job, begin + i, n - i < coded_piece ? n - i : coded_piece, piece, at_random, slots, false);
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
