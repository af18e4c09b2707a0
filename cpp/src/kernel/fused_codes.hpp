// Adam's update of slots that lie in fewer bits, in one loop that opens them in registers: the processor has that to do
// while it divides. It computes what the sweep computes with slots opened in buffers, and is there for common pieces of
// the rule that most use. Each rule more would be one loop more to compile for each kind of code. It is also there only
// where a level has the registers for it. With fewer it would gain nothing.
#pragma once

#include "kernel/ahead.hpp"
#include "kernel/slot_codes.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <class T>
struct Adam;

#if defined(__AVX512F__)
inline constexpr bool fuses_bfloat16 = true, fuses_float8 = true;
#elif defined(__AVX2__)
inline constexpr bool fuses_bfloat16 = true, fuses_float8 = false;
#else
inline constexpr bool fuses_bfloat16 = false, fuses_float8 = false;
#endif

/// Of two slots, the first one with a sign and the second one without.
template <class Rule>
inline constexpr bool opens_in_registers = false;
template <>
inline constexpr bool opens_in_registers<Adam<float>> = fuses_bfloat16 || fuses_float8;

/// Elements whose slots a piece has in 16 bits, in multiples of this number.
inline constexpr std::int64_t fused_at_once = rounded_at_once;

template <class Rule>
FUSEDOPT_NOINLINE void update_bfloat16(Rule rule, float scale, float keep, std::int64_t n, float* __restrict w,
                                       const float* __restrict g, std::uint16_t* __restrict a,
                                       std::uint16_t* __restrict b, const RandomBits& random_a,
                                       const RandomBits& random_b, const Ahead& ahead) {
    const RandomLanes<fused_at_once> lanes_a(random_a), lanes_b(random_b);
    std::uint32_t moved_a = 0, moved_b = 0;
    for (std::int64_t i = 0; i < n; i += fused_at_once, moved_a += lanes_a.step, moved_b += lanes_b.step) {
        for (std::int64_t j = 0; j < fused_at_once; j += line<float>) {
            prefetch_now(w + i + j, ahead.weight);
            prefetch_now(g + i + j, ahead.gradient);
        }
        prefetch_now(a + i, prefetch_bytes);
        prefetch_now(b + i, prefetch_bytes);
#pragma omp simd
        for (int l = 0; l < fused_at_once; ++l) {
            float y = w[i + l] * keep, p = widen_bfloat16(a[i + l]), q = widen_bfloat16(b[i + l]);
            rule(y, g[i + l] * scale, p, q);
            w[i + l] = y;
            a[i + l] = rounded_bfloat16(p, lanes_a.first[l] + moved_a);
            b[i + l] = rounded_bfloat16(q, lanes_b.first[l] + moved_b);
        }
    }
}

/// Blocks [begin, end) of a piece, which are all fine or all coarse. The slots' new numbers go into `open`, and are
/// measured.
template <int cut, class Rule>
FUSEDOPT_NOINLINE void update_float8(Rule rule, float scale, float keep, int begin, int end, float* __restrict w,
                                     const float* __restrict g, const Float8Memory& a, const Float8Memory& b,
                                     OpenSlots& __restrict open, const Ahead& ahead) {
    for (int k = begin; k < end; ++k) {
        const std::int64_t first = k * slot_block;
        const std::uint32_t* __restrict const codes_a = a.codes + k * block_words;
        const std::uint32_t* __restrict const codes_b = b.codes + k * block_words;
        const std::uint32_t base_a = static_cast<std::uint32_t>(a.scales[k]) << 23 & infinity_bits;
        const std::uint32_t base_b = static_cast<std::uint32_t>(b.scales[k]) << 23 & infinity_bits;
        float* __restrict const block_w = w + first;
        const float* __restrict const block_g = g + first;
        float* __restrict const block_a = open.numbers[0] + first;
        float* __restrict const block_b = open.numbers[1] + first;
        std::uint32_t* __restrict const most_a = open.groups[0].most + k * block_words;
        std::uint32_t* __restrict const most_b = open.groups[1].most + k * block_words;
        std::uint32_t* __restrict const least_b = open.groups[1].least + k * block_words;
        for (std::int64_t i = 0; i < slot_block; i += line<float>) {
            prefetch_now(block_w + i, ahead.weight);
            prefetch_now(block_g + i, ahead.gradient);
        }
        prefetch_now(codes_a, coded_piece);
        prefetch_now(codes_b, coded_piece);
#pragma omp simd
        for (int l = 0; l < block_words; ++l) {
            const std::uint32_t word_a = codes_a[l], word_b = codes_b[l];
            float p[4] = {number_in<true, cut, 0>(word_a, base_a), number_in<true, cut, 1>(word_a, base_a),
                          number_in<true, cut, 2>(word_a, base_a), number_in<true, cut, 3>(word_a, base_a)};
            float q[4] = {number_in<false, cut, 0>(word_b, base_b), number_in<false, cut, 1>(word_b, base_b),
                          number_in<false, cut, 2>(word_b, base_b), number_in<false, cut, 3>(word_b, base_b)};
            for (int j = 0; j < 4; ++j) {
                float y = block_w[16 * j + l] * keep;
                rule(y, block_g[16 * j + l] * scale, p[j], q[j]);
                block_w[16 * j + l] = y;
                block_a[16 * j + l] = p[j];
                block_b[16 * j + l] = q[j];
            }
            most_a[l] = most_of(bits_of(p[0]) & ~sign_bit, bits_of(p[1]) & ~sign_bit, bits_of(p[2]) & ~sign_bit,
                                bits_of(p[3]) & ~sign_bit);
            most_b[l] = most_of(bits_of(q[0]), bits_of(q[1]), bits_of(q[2]), bits_of(q[3]));
            least_b[l] = least_of(bits_of(q[0]), bits_of(q[1]), bits_of(q[2]), bits_of(q[3]));
        }
    }
}

/// The fine blocks of a piece, as bits of a slot's scales.
FUSEDOPT_INLINE unsigned fine_blocks(const std::uint16_t* scales) {
    unsigned bits = 0;
    for (int k = 0; k < group; ++k) bits |= (scales[k] / Scale::fine_flag & 1u) << k;
    return bits;
}

/// The first block from block k on that is of another kind.
FUSEDOPT_INLINE int end_of_run(unsigned kinds, int k) {
    const unsigned others = (kinds >> k & 1u) != 0 ? ~kinds : kinds;
    return __builtin_ctz((others | 1u << group) >> k) + k;
}

/// Whether a piece of a variable with coded slots is a common one. In 8 bits it is whole then, has no special codes,
/// and the same blocks are fine in both slots.
FUSEDOPT_INLINE bool is_fused(const Step& step, const Job& job, std::int64_t begin, std::int64_t n) {
    if (!step.is_signed[0] || step.is_signed[1]) return false;
    if (job.slot_code == SlotCode::bfloat16) return fuses_bfloat16 && n % fused_at_once == 0;
    if (!fuses_float8 || n != coded_piece) return false;
    const Float8Memory a(job, 0, begin), b(job, 1, begin);
    unsigned special = 0, different = 0;
    for (int k = 0; k < group; ++k) {
        special |= a.scales[k] | b.scales[k];
        different |= a.scales[k] ^ b.scales[k];
    }
    return (special & Scale::special_flag) == 0 && (different & Scale::fine_flag) == 0;
}

/// Updates such a piece and codes its slots.
template <class Rule>
FUSEDOPT_INLINE void update_fused(const Rule& rule, const Step& step, const Job& job, std::int64_t begin,
                                  std::int64_t n, float scale, float keep, float* w, const float* g, OpenSlots& open,
                                  const Ahead& ahead) {
    if (job.slot_code == SlotCode::bfloat16) {
        const RandomSource random(step.seed, job.first_partial, begin);
        update_bfloat16(rule, scale, keep, n, w, g, static_cast<std::uint16_t*>(job.slots[0]) + begin,
                        static_cast<std::uint16_t*>(job.slots[1]) + begin, random.stream(1), random.stream(2), ahead);
        return;
    }
    if constexpr (fuses_float8) {
        const Float8Memory a(job, 0, begin), b(job, 1, begin);
        const unsigned fine_ones = fine_blocks(a.scales);
        for (int k = 0, end; k < group; k = end) {
            end = end_of_run(fine_ones, k);
            const auto update = (fine_ones >> k & 1u) != 0 ? update_float8<fine, Rule> : update_float8<coarse, Rule>;
            update(rule, scale, keep, k, end, w, g, a, b, open, ahead);
        }
        float* const numbers[max_slots] = {open.numbers[0], open.numbers[1]};
        encode_piece(step, job, begin, n, numbers, true, open.groups, true);
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
