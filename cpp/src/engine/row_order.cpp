// Indices into keys, and keys into order.
#include "engine/row_order.hpp"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>
#include <utility>

#include "runtime/threads.hpp"

namespace fusedopt {
namespace {

constexpr int most_bits = 11;             // of a digit
constexpr std::int64_t most_shares = 16;  // of a sort
constexpr std::int64_t few = 64;          // keys, which std::sort sorts sooner

/// The bits that the numbers from 0 to below `count` take.
int bits_below(std::int64_t count) {
    return static_cast<int>(std::bit_width(static_cast<RowKey>(std::max<std::int64_t>(count - 1, 0))));
}

/// Copies `count` indices, and gives the largest. With `packed` the compiler knows the stride.
template <class Index, bool packed>
RowKey copy(const std::byte* from, std::int64_t stride, std::int64_t count, RowKey* to) {
    RowKey largest = 0;
    for (std::int64_t i = 0; i < count; ++i) {
        Index index;
        std::memcpy(&index, from + i * (packed ? std::int64_t{sizeof(Index)} : stride), sizeof(index));
        to[i] = static_cast<RowKey>(std::int64_t{index});
        largest = std::max(largest, to[i]);
    }
    return largest;
}

template <class Index>
RowKey copy(const std::byte* from, std::int64_t stride, std::int64_t count, RowKey* to) {
    return (stride == sizeof(Index) ? copy<Index, true> : copy<Index, false>)(from, stride, count, to);
}

/// Where a share of `count` keys begins.
std::int64_t begin_of(std::int64_t share, std::int64_t shares, std::int64_t count) {
    return count / shares * share + std::min(share, count % shares);
}

/// Calls work(begin, end) for parts of `count` keys, at once if there are so many that it pays.
template <class Work>
void for_parts(std::int64_t count, const Work& work) {
    const int threads = threads_for(count);
    const std::int64_t shares = shares_for(threads, count);
    run_on_threads(threads, shares,
                   [&](std::int64_t k) { work(begin_of(k, shares, count), begin_of(k + 1, shares, count)); });
}

/// Some bits of a number.
struct Digit {
    int shift;
    int bits;

    std::size_t of(RowKey number) const { return (number >> shift) & ((RowKey{1} << bits) - 1); }
};

/// How many of `count` rows have each value of the digit, and the same of the digit above it.
void count_pair(Digit digit, const RowKey* rows, std::int64_t count, std::size_t* counts) {
    const Digit above = {digit.shift + digit.bits, digit.bits};
    std::size_t* const counts_above = counts + (std::size_t{1} << digit.bits);
    for (std::int64_t i = 0; i < count; ++i) {
        ++counts[digit.of(rows[i])];
        ++counts_above[above.of(rows[i])];
    }
}

/// Sorts the keys key_at(i) by a digit, and leaves those of the same digit in their order. If there is one share, its
/// counts are given.
template <class KeyAt>
void sort_by(Digit digit, const KeyAt& key_at, RowKey* to, std::int64_t count, int shares, std::size_t* counts) {
    const std::size_t digits = std::size_t{1} << digit.bits;
    const auto for_shares = [&](const auto& work) {
        run_on_threads(shares, shares, [&](std::int64_t share) {
            work(counts + static_cast<std::size_t>(share) * digits, begin_of(share, shares, count),
                 begin_of(share + 1, shares, count));
        });
    };
    if (shares > 1) {
        for_shares([&](std::size_t* own, std::int64_t begin, std::int64_t end) {
            std::fill(own, own + digits, 0);
            for (std::int64_t i = begin; i < end; ++i) ++own[digit.of(key_at(i))];
        });
    }
    std::size_t before = 0;
    for (std::size_t k = 0; k < digits; ++k) {
        for (std::size_t share = 0; share < static_cast<std::size_t>(shares); ++share) {
            before += std::exchange(counts[share * digits + k], before);
        }
    }
    for_shares([&](std::size_t* own, std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) {
            const RowKey key = key_at(i);
            to[own[digit.of(key)]++] = key;
        }
    });
}

/// A sort by digits, from the lowest to the highest.
struct Passes {
    int count;
    int bits;
    int shares;

    static Passes of(std::int64_t keys, RowKeyForm form) {
        const int count = std::max(1, (form.row_bits + most_bits - 1) / most_bits);
        const auto shares = std::min<std::int64_t>(threads_for(keys), most_shares);
        return {count, (form.row_bits + count - 1) / count, static_cast<int>(shares)};
    }

    std::size_t digits() const { return std::size_t{1} << bits; }

    /// Enough also for fewer keys, which one thread sorts. It counts all digits first, two at a time, and so reads the
    /// keys less often.
    std::size_t counts() const { return static_cast<std::size_t>(std::max(shares, (count + 1) / 2 * 2)) * digits(); }
};

RowKey* sort_by_digits(Passes passes, RowKeyForm form, RowKey* indices, RowKey* other, std::int64_t count,
                       std::size_t* counts) {
    const int bits = passes.bits;
    if (passes.shares == 1) {
        std::fill(counts, counts + passes.counts(), 0);
        for (int k = 0; k < passes.count; k += 2) {
            count_pair({k * bits, bits}, indices, count, counts + static_cast<std::size_t>(k) * passes.digits());
        }
    }
    const auto key_of = [indices, form](std::int64_t i) { return indices[i] << form.shift | static_cast<RowKey>(i); };
    sort_by({form.shift, bits}, key_of, other, count, passes.shares, counts);
    for (int k = 1; k < passes.count; ++k) {
        std::swap(indices, other);
        if (passes.shares == 1) counts += passes.digits();
        const RowKey* const from = indices;
        sort_by(
            {form.shift + k * bits, bits}, [from](std::int64_t i) { return from[i]; }, other, count, passes.shares,
            counts);
    }
    return other;
}

}  // namespace

RowKeyForm RowKeyForm::of(std::int64_t given, std::int64_t rows) {
    return {bits_below(given) + 1, bits_below(rows)};
}

bool copy_indices(const Tensor& indices, std::int64_t rows, RowKey* to) {
    const auto* const from = static_cast<const std::byte*>(indices.data());
    const std::int64_t stride = indices.strides()[0];
    const auto copy_part = indices.dtype() == DType::int32 ? copy<std::int32_t> : copy<std::int64_t>;
    std::atomic<bool> are_rows = true;
    for_parts(indices.size(), [&](std::int64_t begin, std::int64_t end) {
        if (begin == end) return;
        const RowKey largest = copy_part(from + begin * stride, stride, end - begin, to + begin);
        if (largest >= static_cast<RowKey>(rows)) are_rows.store(false, std::memory_order_relaxed);
    });
    return are_rows;
}

bool has_equal(const RowKey* sorted, std::int64_t count, RowKeyForm form) {
    std::atomic<bool> has = false;
    for_parts(count, [&](std::int64_t begin, std::int64_t end) {
        RowKey equal = 0;  // counted and not asked for, which takes no branch
        for (std::int64_t i = std::max<std::int64_t>(begin, 1); i < end; ++i) {
            equal += form.is_same_row(sorted[i - 1], sorted[i]);
        }
        if (equal > 0) has.store(true, std::memory_order_relaxed);
    });
    return has;
}

RowKey* RowSorter::sort(RowKey* indices, RowKey* other, std::int64_t count, RowKeyForm form) {
    const Passes passes = Passes::of(count, form);
    if (counts_.size() < passes.counts()) counts_.resize(passes.counts());
    const bool is_sorted = std::is_sorted(indices, indices + count);
    if (!is_sorted && count > few) return sort_by_digits(passes, form, indices, other, count, counts_.data());
    for_parts(count, [&](std::int64_t begin, std::int64_t end) {
        for (std::int64_t i = begin; i < end; ++i) indices[i] = indices[i] << form.shift | static_cast<RowKey>(i);
    });
    if (!is_sorted) std::sort(indices, indices + count);
    return indices;
}

}  // namespace fusedopt
