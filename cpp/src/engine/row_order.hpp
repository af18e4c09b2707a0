// The order of the rows that a step touches: from indices to keys, and from keys to keys in order. All work here
// follows from the indices alone, so it does not matter how many threads do it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// A row, then a bit for the caller, then the place of the row among those that are given. Keys in order are rows in
/// order, and equal rows as they were given.
using RowKey = std::uint64_t;

/// Where the numbers of a key lie.
struct RowKeyForm {
    int shift;  // to the row
    int row_bits;

    /// For `given` indices into `rows` rows. Together they may take more bits than a key has.
    static RowKeyForm of(std::int64_t given, std::int64_t rows);

    bool fits() const { return row_bits + shift <= 64; }
    RowKey mark() const { return RowKey{1} << (shift - 1); }  // the caller's bit
    std::int64_t row_of(RowKey key) const { return static_cast<std::int64_t>(key >> shift); }
    std::int64_t place_of(RowKey key) const { return static_cast<std::int64_t>(key & (mark() - 1)); }
    bool is_same_row(RowKey a, RowKey b) const { return (a ^ b) >> shift == 0; }
};

/// Copies indices, and says whether each of the copies is one of `rows` rows. A negative index becomes a large number.
bool copy_indices(const Tensor& indices, std::int64_t rows, RowKey* to);

/// Whether a row occurs twice.
bool has_equal(const RowKey* sorted, std::int64_t count, RowKeyForm form);

class RowSorter {
public:
    /// Makes keys of copied indices and puts them in order. They lie in `indices` or in `other` then, and the place is
    /// returned. Both have room for `count` keys.
    RowKey* sort(RowKey* indices, RowKey* other, std::int64_t count, RowKeyForm form);

private:
    std::vector<std::size_t> counts_;  // of the keys with each digit; it only grows
};

}  // namespace fusedopt
