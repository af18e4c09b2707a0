// What the rows of one table have missed under RowUpdates::caught_up. The history of a table's steps begins at some
// step at which all rows were up to date, and gives what any row has missed since it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "kernel/kernel.hpp"

namespace fusedopt {

/// What moves a variable in a step with a gradient of zero.
struct Mover {
    int slot = -1;  // times a factor; below 0: nothing moves it
    bool is_sign = false;

    friend bool operator==(const Mover&, const Mover&) = default;
};

/// Nothing missed.
inline constexpr kernel::Missed nothing_missed{1.0, 0.0, {1.0, 1.0, 1.0}, 1.0, 0};

/// All that two spans of steps do, one after the other.
kernel::Missed then(const kernel::Missed& earlier, const kernel::Missed& later, Mover mover);

/// Only sums and products: what changes from step to step, as learning rates do, needs no case of its own. Entry s
/// stands for what is missed since step s of the history, in two parts. `since_` reaches from there to the end of its
/// block of steps, and `blocks_` from the end of a block to the beginning of the present one. So a step changes the
/// entries of one block, and the end of a block the others.
class History {
public:
    History() = default;  // of a variable that keeps none
    explicit History(std::int64_t rows, Mover mover);

    bool is_kept() const { return rows_ > 0; }
    std::int64_t size_bytes() const;
    bool is_empty() const { return count_ == 0; }  // then no row is behind
    bool is_full() const { return count_ == capacity_; }

    /// All rows are up to date.
    void clear() { count_ = 0; }

    /// For a step that follows: the rows that it touches are marked, and then the step is added.
    void begin_step();
    void mark(std::int64_t row) { entries_[static_cast<std::size_t>(row)] = count_ + 1; }
    void add(const kernel::Missed& step);

    /// Up to date now, without a step.
    void mark_now(std::int64_t row) { entries_[static_cast<std::size_t>(row)] = count_; }

    bool is_behind(std::int64_t row) const { return entries_[static_cast<std::size_t>(row)] != count_; }
    kernel::Missed missed_by(std::int64_t row) const;

    /// For CatchUp::move_until_zero. `slot` is what the moving slot held at the entry.
    double move_until_zero(std::int32_t entry, double slot, bool is_double) const;

    void set_mover(Mover mover) { mover_ = mover; }
    Mover mover() const { return mover_; }

private:
    kernel::Missed since(std::int32_t entry) const;

    std::int64_t rows_ = 0;
    Mover mover_;
    int block_bits_ = 0;
    std::int32_t count_ = 0;  // of steps
    std::int32_t capacity_ = 0;

    // Not touched before the first step of rows.
    std::unique_ptr<std::int32_t[]> entries_;  // of each row
    std::unique_ptr<kernel::Missed[]> since_;
    std::unique_ptr<kernel::Missed[]> blocks_;

    // If a sign moves: how large the slot of an entry would be without underflow, and what the next step takes the sign
    // of.
    std::unique_ptr<double[]> sizes_;
    std::unique_ptr<double[]> signed_sizes_;
};

}  // namespace fusedopt
