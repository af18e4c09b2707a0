// How blocks of 8-bit slots are coded: what their numbers are like, and the bases and guards that follow from it. All
// of it is done for some blocks at a time, without a branch.
#pragma once

#include "kernel/float8.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// From here on a block may hold what is not finite, or a code may round to infinity.
inline constexpr std::uint32_t huge_bits = 0x7f600000u;

/// What the blocks of a piece of a slot are like, and how they are coded.
struct BlockGroup {
    alignas(64) std::uint32_t most[group * block_words];   // the largest magnitude of each word's elements
    alignas(64) std::uint32_t least[group * block_words];  // and minus the smallest one but zeros, without a sign
    alignas(64) std::int32_t largest[group];               // magnitudes
    alignas(64) std::int32_t minus_smallest[group];        // but zeros
    alignas(64) std::int32_t base[group];
    alignas(64) std::int32_t cut[group];
    alignas(64) std::uint32_t base_bits[group];
    alignas(64) std::uint32_t minus_base[group];
    alignas(64) std::uint32_t below[group];   // bits that are cut off
    alignas(64) std::uint32_t scales[group];  // without codes of special numbers

    FUSEDOPT_INLINE void set(int b, std::int32_t of_block, std::int32_t is_fine) {
        base[b] = of_block;
        cut[b] = coarse + is_fine;
        base_bits[b] = static_cast<std::uint32_t>(of_block) << 23;
        minus_base[b] = 0u - (static_cast<std::uint32_t>(of_block) << 23);
        below[b] = (1u << coarse) - 1 + (static_cast<std::uint32_t>(is_fine) << fine);
        scales[b] = static_cast<std::uint32_t>(of_block - is_fine * static_cast<std::int32_t>(Scale::fine_flag));
    }
};

FUSEDOPT_INLINE std::uint32_t larger_bits(std::uint32_t a, std::uint32_t b) {
    return a > b ? a : b;
}

/// The larger one of each pair of numbers.
template <int pairs>
FUSEDOPT_INLINE void fold(const std::uint32_t* __restrict numbers, std::uint32_t* __restrict out) {
#pragma omp simd
    for (int i = 0; i < pairs; ++i) out[i] = larger_bits(numbers[2 * i], numbers[2 * i + 1]);
}

/// The largest numbers of blocks whose rows of sixteen lie one after the other. What is read is always as wide as what
/// has been written, or the processor would wait until it is in the cache, and for all divisions before.
FUSEDOPT_INLINE void largest_of_rows(const std::uint32_t* rows, std::int32_t* largest) {
    static_assert(block_words == 16);
    alignas(64) std::uint32_t eights[group * 8], fours[group * 4], twos[group * 2], ones[group];
    fold<group * 8>(rows, eights);
    fold<group * 4>(eights, fours);
    fold<group * 2>(fours, twos);
    fold<group>(twos, ones);
#pragma omp simd
    for (int b = 0; b < group; ++b) largest[b] = static_cast<std::int32_t>(ones[b]);
}

/// What there is to know of four numbers, given as bits.
FUSEDOPT_INLINE std::uint32_t most_of(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    return larger_bits(larger_bits(a, b), larger_bits(c, d));
}
FUSEDOPT_INLINE std::uint32_t least_of(std::uint32_t a, std::uint32_t b, std::uint32_t c, std::uint32_t d) {
    return most_of(0u - a, 0u - b, 0u - c, 0u - d);
}

template <bool is_signed>
FUSEDOPT_INLINE void measure_some(const float* x, int blocks, BlockGroup& all) {
    for (int b = 0; b < blocks; ++b) {
        const float* const block = x + b * slot_block;
        std::uint32_t* const most = all.most + b * block_words;
        std::uint32_t* const least = all.least + b * block_words;
#pragma omp simd
        for (int l = 0; l < block_words; ++l) {
            const auto bits = [&](int j) __attribute__((always_inline)) {
                return bits_of(block[16 * j + l]) & (is_signed ? ~sign_bit : 0xffffffffu);
            };
            most[l] = most_of(bits(0), bits(1), bits(2), bits(3));
            if constexpr (!is_signed) least[l] = least_of(bits(0), bits(1), bits(2), bits(3));
        }
    }
}

/// Nearly always of a whole group, for which the compiler unrolls all loops.
template <bool is_signed>
FUSEDOPT_NOINLINE void measure_blocks(const float* x, int blocks, BlockGroup& all) {
    if (blocks == group) {
        measure_some<is_signed>(x, group, all);
        return;
    }
    measure_some<is_signed>(x, blocks, all);
    for (int i = blocks * block_words; i < group * block_words; ++i) all.most[i] = all.least[i] = 0;
}

FUSEDOPT_NOINLINE void join_measures(bool is_signed, BlockGroup& all) {
    largest_of_rows(all.most, all.largest);
    if (!is_signed) largest_of_rows(all.least, all.minus_smallest);
}

/// The largest magnitude of a finite number.
FUSEDOPT_NOINLINE std::uint32_t largest_finite(const float* x) {
    std::uint32_t largest = 0;
    for (int i = 0; i < slot_block; ++i) {
        const std::uint32_t magnitude = bits_of(x[i]) & ~sign_bit;
        if (magnitude < infinity_bits && magnitude > largest) largest = magnitude;
    }
    return largest;
}

// A mask, of all bits or none, chooses. The compiler would branch on a condition, and not put blocks into registers.
FUSEDOPT_INLINE std::int32_t is_negative(std::int32_t x) {
    return x >> 31;
}
FUSEDOPT_INLINE std::int32_t choose(std::int32_t mask, std::int32_t x, std::int32_t otherwise) {
    return otherwise ^ ((x ^ otherwise) & mask);
}

FUSEDOPT_INLINE std::int32_t at_least(std::int32_t low, std::int32_t x) {
    return low > x ? low : x;
}

/// The exponent of a number three steps above the largest one.
FUSEDOPT_INLINE std::int32_t top_exponent(std::int32_t largest, int cut) {
    return (largest + (3 << cut)) >> 23;
}

FUSEDOPT_INLINE std::int32_t base_of(std::int32_t largest, std::int32_t is_fine, bool is_signed) {
    const std::int32_t fine_base = at_least(is_signed ? 5 : 1, top_exponent(largest, fine) - (is_signed ? 7 : 15));
    const std::int32_t coarse_base = at_least(is_signed ? 4 : 1, top_exponent(largest, coarse) - (is_signed ? 15 : 31));
    return choose(is_fine, fine_base, coarse_base);
}

/// Whether all numbers have codes in a fine block, with some binades left below for those that shrink.
FUSEDOPT_INLINE std::int32_t are_close(std::int32_t largest, std::int32_t minus_smallest, int binades) {
    const std::int32_t lowest = (-minus_smallest >> 23) + binades;
    return is_negative(top_exponent(largest, fine) - 1 - lowest) & is_negative(-largest);
}

/// The guard in terms of codes: large >= power small - distance. The bits of a float are nearly its logarithm. Twice
/// those of |x|, less a constant, are below those of x^2 by an eighth at most, and to add the bits of the floor loses
/// another eighth.
struct CodeGuard {
    int small = 0, large = 0, power = 0;            // of 0: none
    std::int32_t floor_fine = 0, floor_coarse = 0;  // in codes, with those eighths

    CodeGuard(const Guard& guard, const float* const* numbers) {
        if (guard.power == 0 || !numbers[guard.small] || !numbers[guard.large]) return;
        const double raised = guard.floor * (guard.power == 1 ? 1.125 : 1.266);
        if (!(raised >= Limits<float>::smallest_normal)) return;
        small = guard.small;
        large = guard.large;
        power = guard.power;
        const std::uint32_t floor = bits_of(static_cast<float>(raised));
        const auto codes = [&](int cut) { return static_cast<std::int32_t>((floor + (1u << cut) - 1) >> cut); };
        floor_fine = codes(fine);
        floor_coarse = codes(coarse);
    }

    template <int exponent>
    FUSEDOPT_INLINE std::int32_t distance(std::int32_t small_base, std::int32_t large_base,
                                          std::int32_t is_fine) const {
        const std::int32_t bases = large_base + exponent * (127 - small_base);
        return choose(is_fine, 16 * bases - floor_fine, 8 * bases - floor_coarse);
    }
};

/// Of a slot that no guard watches.
template <bool is_signed>
FUSEDOPT_INLINE void choose_bases(BlockGroup& slot) {
#pragma omp simd
    for (int b = 0; b < group; ++b) {
        const std::int32_t is_fine = is_signed ? 0 : are_close(slot.largest[b], slot.minus_smallest[b], 14);
        slot.set(b, base_of(slot.largest[b], is_fine, is_signed), is_fine);
    }
}

/// Of both slots of a guard. The signed one is fine where the other is.
template <int power>
FUSEDOPT_INLINE void choose_guarded_bases(CodeGuard guard, BlockGroup& __restrict small, BlockGroup& __restrict large,
                                          std::int32_t* __restrict distances) {
#pragma omp simd
    for (int b = 0; b < group; ++b) {
        const std::int32_t is_fine = are_close(large.largest[b], large.minus_smallest[b], power == 1 ? 7 : 14);
        const std::int32_t small_base = base_of(small.largest[b], is_fine, true);
        const std::int32_t large_base = base_of(large.largest[b], is_fine, false);
        // So high that no code has to be above what a byte holds, unless it must be above what a float holds.
        constexpr std::int32_t highest = 240;
        const std::int32_t below = at_least(0, -guard.distance<power>(small_base, large_base, is_fine));
        const std::int32_t raised = large_base + choose(is_fine, (below + 15) >> 4, (below + 7) >> 3);
        const std::int32_t base = at_least(large_base, raised < highest ? raised : highest);
        small.set(b, small_base, is_fine);
        large.set(b, base, is_fine);
        distances[b] = guard.distance<power>(small_base, base, is_fine);
    }
}

/// The scales of some blocks of all slots.
FUSEDOPT_NOINLINE void choose_scales(const Step& step, const CodeGuard& guard, const float* const* numbers,
                                     BlockGroup* all, std::int32_t* distances) {
    if (guard.power == 1) {
        choose_guarded_bases<1>(guard, all[guard.small], all[guard.large], distances);
    } else if (guard.power == 2) {
        choose_guarded_bases<2>(guard, all[guard.small], all[guard.large], distances);
    }
    for (int k = 0; k < max_slots; ++k) {
        if (!numbers[k]) continue;
        BlockGroup& slot = all[k];
        const bool is_guarded = guard.power != 0 && (k == guard.small || k == guard.large);
        if (!is_guarded && step.is_signed[k]) {
            choose_bases<true>(slot);
        } else if (!is_guarded) {
            choose_bases<false>(slot);
        }
    }
}

/// Whether a code of 255 might be infinite or NaN in a block.
FUSEDOPT_INLINE bool any_code_is_infinite(const BlockGroup& slot) {
    std::int32_t any = 0;
#pragma omp simd reduction(| : any)
    for (int b = 0; b < group; ++b) any |= is_negative(223 + ((coarse - slot.cut[b]) << 4) - slot.base[b]);
    return any != 0;
}

FUSEDOPT_INLINE bool any_is_huge(const BlockGroup& slot) {
    std::int32_t any = 0;
#pragma omp simd reduction(| : any)
    for (int b = 0; b < group; ++b)
        any |= slot.largest[b] | is_negative(static_cast<std::int32_t>(huge_bits) - 1 - slot.largest[b]);
    return any < 0;
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
