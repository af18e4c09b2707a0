// How a history is put together, and read.
#include "engine/missed.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

namespace fusedopt {
namespace {

using kernel::Missed;

// A full history makes all rows catch up. That is the work of 8 rows in each of its steps, whatever the table is.
constexpr std::int64_t rows_per_step = 8;
constexpr std::int64_t least_steps = 64, most_steps = std::int64_t{1} << 17;

// What diverges must not become infinite, as zero times infinity is no number.
double bounded(double x) {
    constexpr double largest = std::numeric_limits<double>::max();
    return x > largest ? largest : x < -largest ? -largest : x;
}

/// A logarithm of base 2 but for what lies between powers of two. It orders numbers beyond a double's range, and is the
/// same on every machine.
struct Size {
    double fraction;  // in [0.5, 1)
    double exponent;

    static Size of(double x) {
        int exponent = 0;
        const double fraction = std::frexp(x, &exponent);
        return {fraction, static_cast<double>(exponent)};
    }

    static Size from(double number) {
        const double exponent = std::floor(number);
        return {(number - exponent + 1.0) / 2.0, exponent};
    }

    double number() const { return exponent + (2.0 * fraction - 1.0); }

    Size times(double factor) const {
        if (factor == 0.0) return {fraction, exponent - 4096.0};  // less than any slot can be
        const Size product = of(fraction * factor);
        return {product.fraction, product.exponent + exponent};
    }
};

}  // namespace

Missed then(const Missed& earlier, const Missed& later, Mover mover) {
    Missed both = earlier;
    both.keep = bounded(later.keep * earlier.keep);
    if (mover.slot >= 0) {
        const double x = mover.is_sign ? 1.0 : earlier.factors[mover.slot];
        both.move = bounded(later.keep * earlier.move + later.move * x);
    }
    for (int k = 0; k < kernel::max_slots; ++k) both.factors[k] = earlier.factors[k] * later.factors[k];
    both.sign_factor = std::min(earlier.sign_factor, later.sign_factor);
    return both;
}

History::History(std::int64_t rows, Mover mover) : rows_(rows), mover_(mover) {
    const std::int64_t steps = std::clamp(rows / rows_per_step, least_steps, most_steps);
    // A step changes half a block of entries, and a block's end all blocks: least work if block^3 = 4 steps.
    while (std::int64_t{1} << (3 * block_bits_) < 4 * steps) ++block_bits_;
    capacity_ = static_cast<std::int32_t>(steps);
    const auto entries = static_cast<std::size_t>(steps) + 1;
    entries_ = std::make_unique_for_overwrite<std::int32_t[]>(static_cast<std::size_t>(rows));
    since_ = std::make_unique_for_overwrite<Missed[]>(entries);
    blocks_ = std::make_unique_for_overwrite<Missed[]>((entries >> block_bits_) + 1);
    if (!mover.is_sign) return;
    sizes_ = std::make_unique_for_overwrite<double[]>(entries);
    signed_sizes_ = std::make_unique_for_overwrite<double[]>(entries);
}

std::int64_t History::size_bytes() const {
    if (!is_kept()) return 0;
    const std::int64_t entries = std::int64_t{capacity_} + 1;
    const auto missed = static_cast<std::int64_t>(sizeof(Missed)), size = static_cast<std::int64_t>(sizeof(double));
    return rows_ * static_cast<std::int64_t>(sizeof(std::int32_t)) + (entries + (entries >> block_bits_) + 1) * missed +
           (mover_.is_sign ? 2 * entries * size : 0);
}

void History::begin_step() {
    if (!is_empty()) return;
    std::fill_n(entries_.get(), rows_, 0);
    since_[0] = nothing_missed;
    if (sizes_) sizes_[0] = Size::of(1.0).number();
}

void History::add(const Missed& step) {
    const std::int32_t first = count_ >> block_bits_ << block_bits_;
    for (std::int32_t s = first; s <= count_; ++s) since_[s] = then(since_[s], step, mover_);
    if (sizes_) {
        const Size size = Size::from(sizes_[count_]);
        signed_sizes_[count_] = size.times(step.sign_factor).number();
        sizes_[count_ + 1] = size.times(step.factors[mover_.slot]).number();
    }
    ++count_;
    since_[count_] = nothing_missed;
    const std::int32_t block = first >> block_bits_;
    if (count_ >> block_bits_ == block) return;
    for (std::int32_t b = 0; b < block; ++b) blocks_[b] = then(blocks_[b], since_[first], mover_);
    blocks_[block] = nothing_missed;
}

Missed History::since(std::int32_t entry) const {
    const std::int32_t block = entry >> block_bits_, present = count_ >> block_bits_;
    if (block == present) return since_[entry];
    return then(then(since_[entry], blocks_[block], mover_), since_[present << block_bits_], mover_);
}

Missed History::missed_by(std::int64_t row) const {
    const std::int32_t entry = entries_[static_cast<std::size_t>(row)];
    Missed missed = since(entry);
    missed.entry = entry;
    return missed;
}

// All moves since the entry, but for those since the step that found a zero to take the sign of.
double History::move_until_zero(std::int32_t entry, double slot, bool is_double) const {
    const Size own = Size::of(std::abs(slot)), then_ = Size::from(sizes_[entry]);
    const double smallest = is_double ? -1022.0 : -126.0;
    // What is signed is below the smallest number where its size < size then * 2^smallest / |slot|.
    Size limit = Size::of(then_.fraction / own.fraction);
    limit.exponent += then_.exponent - own.exponent + smallest;
    const double *const begin = signed_sizes_.get() + entry, *const end = signed_sizes_.get() + count_;
    const auto is_above = [&](double size) { return size >= limit.number(); };
    const double* const zero = std::partition_point(begin, end, is_above);
    const auto step = static_cast<std::int32_t>(zero - signed_sizes_.get());
    return since(entry).move - since(step).move;
}

}  // namespace fusedopt
