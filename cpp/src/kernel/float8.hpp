// Slots in 8 bits: the upper bits of a float, counted from a base that the 64 elements of a block share.
//
// `cut` bits are cut off a float, 20, or 19 in a fine block, whose numbers lie close to each other. base is an exponent
// with float's bias, and c the number 2^base.
//   never below zero:  code 0 is zero, else x = float with the bits (base << 23) + (code << cut)
//   with a sign:       a sign, and 7 bits of magnitude: |x| + c = float with the bits (base << 23) + (magnitude << cut)
// So x is exact, and steps near zero are as large as at c. Random bits are added below the last one that stays, and the
// rest is cut off. The base leaves room for three steps more than the largest number has, so that a slot can grow
// across a power of two. A scale is the base and two flags: the block is fine, or it has codes of infinity or NaN.
// Element 16 j + l of a block is byte j of the block's word l, and so all levels work with registers of 32-bit numbers.
#pragma once

#include "kernel/random_rounding.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

inline constexpr int block_words = 16;
inline constexpr std::uint32_t sign_bit = 0x80000000u, infinity_bits = 0x7f800000u, nan_bits = 0x7fc00000u;
/// From here on a block may hold what is not finite, or a code may round to infinity.
inline constexpr std::uint32_t huge_bits = 0x7f700000u;
inline constexpr int coarse = 20, fine = 19;  // bits cut off

struct Scale {
    static constexpr unsigned fine_flag = 0x4000, special_flag = 0x8000;

    int base;
    int cut;
    bool has_special;

    FUSEDOPT_INLINE static Scale of(unsigned code) {
        return {static_cast<int>(code & 0xffu), (code & fine_flag) != 0 ? fine : coarse, (code & special_flag) != 0};
    }
    FUSEDOPT_INLINE std::uint16_t code() const {
        return static_cast<std::uint16_t>(static_cast<unsigned>(base) | (cut == fine ? fine_flag : 0) |
                                          (has_special ? special_flag : 0));
    }
    FUSEDOPT_INLINE std::uint32_t base_bits() const { return static_cast<std::uint32_t>(base) << 23; }
    /// The largest code of a finite number.
    FUSEDOPT_INLINE std::uint32_t finite_codes(std::uint32_t most) const {
        const std::uint32_t last = (infinity_bits - 1 - base_bits()) >> cut;
        return last < most ? last : most;
    }
};

/// The codes of special numbers, and the largest one of a finite one beside them.
struct SpecialCodes {
    std::uint32_t finite, nan, infinity;
};
inline constexpr SpecialCodes special_codes[] = {{253, 254, 255}, {125, 126, 127}};  // by sign

/// Where the codes of a slot and their scales lie, from element `begin` on.
struct Float8Memory {
    std::uint32_t* codes;
    std::uint16_t* scales;

    FUSEDOPT_INLINE Float8Memory(const Job& job, int slot, std::int64_t begin) {
        auto* const first = static_cast<unsigned char*>(job.slots[slot]);
        codes = reinterpret_cast<std::uint32_t*>(first + begin);
        scales = reinterpret_cast<std::uint16_t*>(first + job.scales) + begin / slot_block;
    }
};

FUSEDOPT_INLINE void decode_signed(const std::uint32_t* __restrict codes, Scale scale, float* __restrict out) {
    const std::uint32_t base = scale.base_bits();
    const std::uint32_t places = sign_bit | 0x7fu << scale.cut;
    const int down = 24 - scale.cut;
    const auto number = [&](std::uint32_t code_on_top) __attribute__((always_inline)) {
        const auto moved = (static_cast<std::uint32_t>(static_cast<std::int32_t>(code_on_top) >> down) & places) + base;
        return float_of(moved) - float_of((moved & sign_bit) | base);
    };
#pragma omp simd
    for (int l = 0; l < block_words; ++l) {
        const std::uint32_t word = codes[l];
        out[l] = number(word << 24);
        out[16 + l] = number(word << 16);
        out[32 + l] = number(word << 8);
        out[48 + l] = number(word);
    }
}

FUSEDOPT_INLINE void decode_unsigned(const std::uint32_t* __restrict codes, Scale scale, float* __restrict out) {
    const std::uint32_t base = scale.base_bits();
    const std::uint32_t places = 0xffu << scale.cut;
    const auto number = [&](std::uint32_t shifted) __attribute__((always_inline)) {
        const std::uint32_t code = shifted & places;
        return float_of(code != 0 ? code + base : 0);
    };
#pragma omp simd
    for (int l = 0; l < block_words; ++l) {
        const std::uint32_t word = codes[l];
        out[l] = number(word << scale.cut);
        out[16 + l] = number(word << (scale.cut - 8));
        out[32 + l] = number(word << (scale.cut - 16));
        out[48 + l] = number(word >> (24 - scale.cut));
    }
}

FUSEDOPT_INLINE std::uint32_t code_at(const std::uint32_t* codes, int i) {
    return (codes[i % block_words] >> (i / block_words * 8)) & 0xffu;
}

/// What the codes of a block say besides finite numbers.
FUSEDOPT_NOINLINE void decode_special(const std::uint32_t* codes, bool is_signed, float* out) {
    const SpecialCodes special = special_codes[is_signed];
    for (int i = 0; i < slot_block; ++i) {
        const std::uint32_t code = code_at(codes, i);
        const std::uint32_t magnitude = is_signed ? code & 0x7fu : code;
        if (magnitude <= special.finite) continue;
        const std::uint32_t sign = is_signed ? (code & 0x80u) << 24 : 0;
        out[i] = float_of(magnitude == special.nan ? nan_bits : sign | infinity_bits);
    }
}

inline void decode_float8(const Float8Memory& memory, bool is_signed, std::int64_t blocks, float* out) {
    for (std::int64_t b = 0; b < blocks; ++b, out += slot_block) {
        const Scale scale = Scale::of(memory.scales[b]);
        const std::uint32_t* const codes = memory.codes + b * block_words;
        if (is_signed) {
            decode_signed(codes, scale, out);
        } else {
            decode_unsigned(codes, scale, out);
        }
        if (__builtin_expect(scale.has_special, false)) {
            decode_special(codes, is_signed, out);
        }
    }
}

/// What the numbers of a block are like.
struct Extent {
    std::uint32_t largest;   // magnitude
    std::uint32_t smallest;  // one that is not zero, less one
    bool is_huge;            // not all are finite, or a code might not be
};

/// The largest magnitude of a finite number.
FUSEDOPT_NOINLINE std::uint32_t largest_finite(const float* x) {
    std::uint32_t largest = 0;
    for (int i = 0; i < slot_block; ++i) {
        const std::uint32_t magnitude = bits_of(x[i]) & ~sign_bit;
        if (magnitude < infinity_bits && magnitude > largest) largest = magnitude;
    }
    return largest;
}

FUSEDOPT_INLINE Extent extent_of(const float* x) {
    std::uint32_t largest = 0, smallest = 0xffffffffu;
#pragma omp simd reduction(max : largest) reduction(min : smallest)
    for (int i = 0; i < slot_block; ++i) {
        const std::uint32_t magnitude = bits_of(x[i]) & ~sign_bit;
        largest = magnitude > largest ? magnitude : largest;
        smallest = magnitude - 1 < smallest ? magnitude - 1 : smallest;
    }
    if (__builtin_expect(largest >= huge_bits, false)) return {largest_finite(x), 0, true};
    return {largest, smallest, false};
}

/// The exponent of a number three steps above the largest one.
FUSEDOPT_INLINE int top_exponent(std::uint32_t largest, int cut) {
    return static_cast<int>((largest + (3u << cut)) >> 23);
}

/// Whether all numbers have codes in a fine block, with some binades left below for those that shrink.
FUSEDOPT_INLINE bool are_close(const Extent& extent, int binades) {
    return !extent.is_huge && extent.largest > 0 &&
           static_cast<int>((extent.smallest + 1) >> 23) >= top_exponent(extent.largest, fine) - binades;
}

FUSEDOPT_INLINE Scale scale_of(const Extent& extent, int cut, bool is_signed) {
    const int below = (is_signed ? 16 : 32) >> (coarse - cut);
    const int lowest = !is_signed ? 1 : cut == fine ? 5 : 4;
    const int base = top_exponent(extent.largest, cut) - (below - 1);
    return {base > lowest ? base : lowest, cut, false};
}

/// The guard in terms of codes: large >= power small - distance. The bits of a float are nearly its logarithm. Twice
/// those of |x|, less a constant, are below those of x^2 by an eighth at most, and to add the bits of the floor loses
/// another eighth.
struct CodeGuard {
    int small = 0, large = 0, power = 0;  // of 0: none
    std::uint32_t floor = 0;              // as bits of a float, with those eighths

    CodeGuard(const Guard& guard, const float* const* numbers) {
        if (guard.power == 0 || !numbers[guard.small] || !numbers[guard.large]) return;
        const double raised = guard.floor * (guard.power == 1 ? 1.125 : 1.266);
        if (!(raised >= Limits<float>::smallest_normal)) return;
        small = guard.small;
        large = guard.large;
        power = guard.power;
        floor = bits_of(static_cast<float>(raised));
    }

    FUSEDOPT_INLINE int distance(Scale of_small, Scale of_large) const {
        const int cut = of_large.cut;
        const auto floor_codes = static_cast<int>((floor + (1u << cut) - 1) >> cut);
        return (of_large.base + power * (127 - of_small.base)) * (1 << (23 - cut)) - floor_codes;
    }

    /// Raises the base of the large slot, so that no code has to be above what a byte holds.
    FUSEDOPT_INLINE void raise(Scale of_small, Scale& of_large) const {
        constexpr int highest = 240;
        const int below = -distance(of_small, of_large), steps = 1 << (23 - of_large.cut);
        if (below <= 0 || of_large.base >= highest) return;
        const int base = of_large.base + (below + steps - 1) / steps;
        of_large.base = base < highest ? base : highest;
    }

    FUSEDOPT_INLINE void apply(Scale of_small, Scale of_large, const std::uint32_t* __restrict small_codes,
                               std::uint32_t* __restrict large_codes) const;
};

/// Codes of a block with one byte each in four words at a time.
template <class Code>
FUSEDOPT_INLINE void pack(const Code& code, const float* __restrict x, RandomBits random,
                          std::uint32_t* __restrict out) {
#pragma omp simd
    for (int l = 0; l < block_words; ++l) {
        const std::uint32_t a = code(x[l], random.at(l)), b = code(x[16 + l], random.at(16 + l));
        const std::uint32_t c = code(x[32 + l], random.at(32 + l)), d = code(x[48 + l], random.at(48 + l));
        out[l] = a >> 24 | (b >> 16 & 0xff00u) | (c >> 8 & 0xff0000u) | (d & 0xff000000u);
    }
}

FUSEDOPT_INLINE void encode_signed(const float* x, Scale scale, RandomBits random, std::uint32_t* out) {
    const std::uint32_t base = scale.base_bits(), below = (1u << scale.cut) - 1;
    const int up = 24 - scale.cut;
    const auto code = [&](float number, std::uint32_t bits) __attribute__((always_inline)) {
        const std::uint32_t moved = bits_of(absolute(number) + float_of(base));
        return (((moved + ((bits & below) | (0u - base))) << up) & ~sign_bit) | (bits_of(number) & sign_bit);
    };
    pack(code, x, random, out);
}

FUSEDOPT_INLINE void encode_unsigned(const float* x, Scale scale, RandomBits random, std::uint32_t* out) {
    const std::uint32_t base = scale.base_bits(), below = (1u << scale.cut) - 1;
    const auto smallest = static_cast<std::int32_t>(1u << scale.cut);
    const int up = 24 - scale.cut;
    const auto code = [&](float number, std::uint32_t bits) __attribute__((always_inline)) {
        const auto rounded = static_cast<std::int32_t>(bits_of(number) + ((bits & below) | (0u - base)));
        const auto above = static_cast<std::uint32_t>(rounded > smallest ? rounded : smallest);
        return (above < bits_of(number) ? above : bits_of(number)) << up;  // zero stays zero
    };
    pack(code, x, random, out);
}

/// The same, element by element, for blocks with huge or special numbers.
FUSEDOPT_NOINLINE void encode_huge(const float* x, bool is_signed, Scale& scale, RandomBits random,
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
}

FUSEDOPT_INLINE void CodeGuard::apply(Scale of_small, Scale of_large, const std::uint32_t* __restrict small_codes,
                                      std::uint32_t* __restrict large_codes) const {
    const int distance_of_codes = distance(of_small, of_large);
    const auto most = static_cast<int>(of_large.finite_codes(of_large.has_special ? 253 : 255));
    for (int i = 0; i < slot_block; ++i) {
        const auto magnitude = static_cast<int>(code_at(small_codes, i) & 0x7fu);
        if (magnitude == 0 || (of_small.has_special && magnitude > 125)) continue;
        int least = power * magnitude - distance_of_codes;
        least = least < most ? least : most;
        const int shift = i / block_words * 8;
        if (least > static_cast<int>(code_at(large_codes, i))) {
            std::uint32_t& word = large_codes[i % block_words];
            word = (word & ~(0xffu << shift)) | static_cast<std::uint32_t>(least) << shift;
        }
    }
}

/// Codes n elements from `begin` on, which are of one tile. Behind the last one, the buffers have room for the rest of
/// its block.
inline void encode_float8(const Step& step, const Job& job, std::int64_t begin, std::int64_t n, float* const* numbers,
                          bool at_random) {
    const std::int64_t blocks = (n + slot_block - 1) / slot_block;
    const CodeGuard guard(step.guard, numbers);
    for (int k = 0; k < max_slots; ++k) {
        if (!numbers[k]) continue;
        for (std::int64_t i = n; i < blocks * slot_block; ++i) numbers[k][i] = 0;
    }
    for (std::int64_t b = 0; b < blocks; ++b) {
        Extent extents[max_slots] = {};
        Scale scales[max_slots] = {};
        for (int k = 0; k < max_slots; ++k) {
            if (numbers[k]) extents[k] = extent_of(numbers[k] + b * slot_block);
        }
        for (int k = 0; k < max_slots; ++k) {
            const bool is_guarded = guard.power != 0 && k == guard.large;
            const bool is_fine = !step.is_signed[k] && are_close(extents[k], is_guarded && guard.power == 1 ? 7 : 14) &&
                                 !(is_guarded && extents[guard.small].is_huge);
            scales[k] = scale_of(extents[k], is_fine ? fine : coarse, step.is_signed[k]);
        }
        if (guard.power != 0) {
            scales[guard.small] = scale_of(extents[guard.small], scales[guard.large].cut, true);
            guard.raise(scales[guard.small], scales[guard.large]);
        }
        for (int k = 0; k < max_slots; ++k) {
            if (!numbers[k]) continue;
            const Float8Memory memory(job, k, begin + b * slot_block);
            const float* const x = numbers[k] + b * slot_block;
            const RandomBits random = at_random
                                          ? RandomBits::of(step.seed, job.first_partial, 1 + k, begin + b * slot_block)
                                          : RandomBits::constant(1u << (scales[k].cut - 1));
            if (__builtin_expect(extents[k].is_huge, false)) {
                encode_huge(x, step.is_signed[k], scales[k], random, memory.codes);
            } else if (step.is_signed[k]) {
                encode_signed(x, scales[k], random, memory.codes);
            } else {
                encode_unsigned(x, scales[k], random, memory.codes);
            }
            *memory.scales = scales[k].code();
        }
        if (guard.power != 0) {
            const Float8Memory small(job, guard.small, begin + b * slot_block);
            const Float8Memory large(job, guard.large, begin + b * slot_block);
            guard.apply(scales[guard.small], scales[guard.large], small.codes, large.codes);
        }
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
