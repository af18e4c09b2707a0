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

/// Elements that are opened and closed at a time, a part of a tile. In a whole one, less of the memory's work would go
/// on while codes are computed.
inline constexpr std::int64_t coded_piece = 512;

inline constexpr int group = coded_piece / slot_block;  // the blocks of a piece
inline constexpr int block_words = 16;
inline constexpr std::uint32_t sign_bit = 0x80000000u, infinity_bits = 0x7f800000u, nan_bits = 0x7fc00000u;
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

/// A number with a sign, of whose code the highest bit is the highest one here. Bits below the code count for nothing.
template <int cut>
FUSEDOPT_INLINE float signed_number(std::uint32_t code, std::uint32_t base) {
    const auto moved = static_cast<std::uint32_t>(static_cast<std::int32_t>(code) >> (24 - cut));
    const std::uint32_t bits = (moved & (sign_bit | 0x7fu << cut)) + base;
    return float_of(bits) - float_of((bits & sign_bit) | base);
}

/// One without a sign, whose code has its place in a float. Other bits count for nothing.
template <int cut>
FUSEDOPT_INLINE float unsigned_number(std::uint32_t moved, std::uint32_t base) {
    const std::uint32_t code = moved & 0xffu << cut;
    return float_of(code != 0 ? code + base : 0);
}

/// The number of a word's byte j.
template <bool is_signed, int cut, int j>
FUSEDOPT_INLINE float number_in(std::uint32_t word, std::uint32_t base) {
    if constexpr (is_signed) {
        return signed_number<cut>(word << (24 - 8 * j), base);
    } else {
        return unsigned_number<cut>(j < 3 ? word << (cut - 8 * j) : word >> (24 - cut), base);
    }
}

template <bool is_signed, int cut>
FUSEDOPT_INLINE void decode_block(const std::uint32_t* __restrict codes, std::uint32_t base, float* __restrict out) {
#pragma omp simd
    for (int l = 0; l < block_words; ++l) {
        const std::uint32_t word = codes[l];
        out[l] = number_in<is_signed, cut, 0>(word, base);
        out[16 + l] = number_in<is_signed, cut, 1>(word, base);
        out[32 + l] = number_in<is_signed, cut, 2>(word, base);
        out[48 + l] = number_in<is_signed, cut, 3>(word, base);
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

/// Fetches as many codes more, from which the next piece will be opened.
template <bool is_signed>
FUSEDOPT_NOINLINE void decode_blocks(const Float8Memory& memory, std::int64_t blocks, float* out) {
    for (std::int64_t b = 0; b < blocks; ++b, out += slot_block) {
        const unsigned scale = memory.scales[b];
        const std::uint32_t* const codes = memory.codes + b * block_words;
        const std::uint32_t base = scale << 23 & infinity_bits;
        prefetch_now(codes + blocks * block_words);
        if ((scale & Scale::fine_flag) != 0) {
            decode_block<is_signed, fine>(codes, base, out);
        } else {
            decode_block<is_signed, coarse>(codes, base, out);
        }
        if (__builtin_expect((scale & Scale::special_flag) != 0, false)) decode_special(codes, is_signed, out);
    }
}

inline void decode_float8(const Float8Memory& memory, bool is_signed, std::int64_t blocks, float* out) {
    if (is_signed) {
        decode_blocks<true>(memory, blocks, out);
    } else {
        decode_blocks<false>(memory, blocks, out);
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
