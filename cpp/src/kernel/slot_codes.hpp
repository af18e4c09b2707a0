// Slots in 16 and 8 bits. Whoever updates a variable opens its coded slots into buffers of numbers, and closes them
// afterwards, so that a formula knows nothing of codes. Rounding is at random, or to the nearest where numbers are
// loaded. A code of 16 bits is the upper half of a float; kernel/float8.hpp tells about 8 bits.
#pragma once

#include "kernel/float8_encoding.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// The numbers of a piece's slots, and what is known of their blocks, if there are any.
struct OpenSlots {
    alignas(64) float numbers[max_slots][coded_piece];
    BlockGroup groups[max_slots];
};

FUSEDOPT_INLINE bool is_coded(const Job& job) {
    return job.slot_code != SlotCode::full;
}

/// Fetches as many codes more, from which the next piece will be opened.
FUSEDOPT_NOINLINE void open_bfloat16(const std::uint16_t* __restrict codes, std::int64_t n, float* __restrict numbers) {
    constexpr int at_once = 32;
    std::int64_t i = 0;
    for (; i + at_once <= n; i += at_once) {
        prefetch_now(codes + i + n);
#pragma omp simd
        for (int l = 0; l < at_once; ++l) numbers[i + l] = widen_bfloat16(codes[i + l]);
    }
    widen_bfloat16(codes + i, n - i, numbers + i);
}

/// Elements [begin, begin + n) of a coded slot, in pieces of whole blocks: what follows n in the last one is written,
/// too.
FUSEDOPT_INLINE void open_slot(const Job& job, int slot, bool is_signed, std::int64_t begin, std::int64_t n,
                               float* numbers) {
    if (job.slot_code == SlotCode::bfloat16) {
        open_bfloat16(static_cast<const std::uint16_t*>(job.slots[slot]) + begin, n, numbers);
    } else {
        decode_float8(Float8Memory(job, slot, begin), is_signed, (n + slot_block - 1) / slot_block, numbers);
    }
}

/// Codes n elements from `begin` on, which are of one tile. Null: a slot stays as it is. Behind the last element, the
/// buffers have room for the rest of its block.
FUSEDOPT_NOINLINE void close_slots(const Step& step, const Job& job, std::int64_t begin, std::int64_t n,
                                   float* const* numbers, bool at_random) {
    if (job.slot_code == SlotCode::float8) {
        return encode_float8(step, job, begin, n, numbers, at_random);
    }
    const RandomSource random(step.seed, job.first_partial, begin);
    for (int k = 0; k < max_slots; ++k) {
        if (!numbers[k]) continue;
        auto* out = static_cast<std::uint16_t*>(job.slots[k]) + begin;
        if (at_random) {
            narrow_at_random(Element::bfloat16, numbers[k], n, random.stream(1 + k), out);
        } else {
            narrow_bfloat16(numbers[k], n, out);
        }
    }
}

/// Slots of a rule that may be coded, from the first one on. What is behind them is never.
template <class Rule>
FUSEDOPT_INLINE constexpr int coded_slots_of() {
    if constexpr (requires { Rule::coded_slots; }) {
        return Rule::coded_slots;
    } else {
        return Rule::slot_count;
    }
}

FUSEDOPT_NOINLINE void open_slots(const Step& step, const Job& job, int count, std::int64_t begin, std::int64_t n,
                                  OpenSlots& open) {
    for (int k = 0; k < count; ++k) open_slot(job, k, step.is_signed[k], begin, n, open.numbers[k]);
}

FUSEDOPT_NOINLINE void close_slots(const Step& step, const Job& job, int count, std::int64_t begin, std::int64_t n,
                                   OpenSlots& open) {
    float* numbers[max_slots] = {};
    for (int k = 0; k < count; ++k) numbers[k] = open.numbers[k];
    close_slots(step, job, begin, n, numbers, true);
}

/// The numbers of a slot: in its own memory, or opened into `buffer`, which holds a tile.
template <class T>
FUSEDOPT_INLINE T* open_numbers(const Step& step, const Job& job, int slot, std::int64_t begin, std::int64_t n,
                                T* buffer) {
    if constexpr (sizeof(T) == 4) {
        if (is_coded(job)) {
            open_slot(job, slot, step.is_signed[slot], begin, n, buffer);
            return buffer;
        }
    }
    return static_cast<T*>(job.slots[slot]) + begin;
}

/// Codes what has been opened, of slots that are.
template <class T>
FUSEDOPT_INLINE void close_numbers(const Step& step, const Job& job, std::int64_t begin, std::int64_t n,
                                   T* const (&numbers)[max_slots]) {
    if constexpr (sizeof(T) == 4) {
        if (is_coded(job)) close_slots(step, job, begin, n, numbers, true);
    }
}

/// Asks for the codes of a piece before its turn comes.
FUSEDOPT_INLINE void prefetch_codes(const Job& job, int slot, std::int64_t begin, std::int64_t n) {
    const std::int64_t bytes = job.slot_code == SlotCode::bfloat16 ? 2 : 1;
    const char* codes = static_cast<const char*>(job.slots[slot]) + begin * bytes;
    for (std::int64_t i = 0; i < n * bytes; i += 64) prefetch_now(codes + i);
}

inline void decode_slot(const Job& job, int slot, bool is_signed, std::int64_t begin, std::int64_t end, float* values) {
    alignas(64) float piece[coded_piece];
    for (std::int64_t i = begin; i < end; i += coded_piece) {
        const std::int64_t n = end - i < coded_piece ? end - i : coded_piece;
        open_slot(job, slot, is_signed, i, n, piece);
        __builtin_memcpy(values + (i - begin), piece, static_cast<unsigned long>(n) * sizeof(float));
    }
}

/// What somebody else may have put into a slot without sign, but no kernel does: a zero is one whatever its sign, and
/// a subnormal number takes the smallest code.
inline void tidy_unsigned(std::int64_t n, float* x) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        const std::uint32_t bits = bits_of(x[i]) == sign_bit ? 0 : bits_of(x[i]);
        x[i] = float_of(bits != 0 && bits < 0x100000u ? 0x100000u : bits);
    }
}

inline void encode_slots(const Step& step, const Job& job, std::int64_t begin, std::int64_t end,
                         const float* const* values) {
    OpenSlots open;
    for (std::int64_t i = begin; i < end; i += coded_piece) {
        const std::int64_t n = end - i < coded_piece ? end - i : coded_piece;
        float* numbers[max_slots] = {};
        for (int k = 0; k < max_slots; ++k) {
            if (!values[k]) continue;
            numbers[k] = open.numbers[k];
            __builtin_memcpy(numbers[k], values[k] + (i - begin), static_cast<unsigned long>(n) * sizeof(float));
            if (job.slot_code == SlotCode::float8 && !step.is_signed[k]) tidy_unsigned(n, numbers[k]);
        }
        close_slots(step, job, i, n, numbers, false);
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
