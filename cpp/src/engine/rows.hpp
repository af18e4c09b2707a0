// The rows of tables that a step touches. A row is a small variable: a job of its own, which the kernels update like
// any other. Here its indices are copied, checked and put in order, and the gradients of equal rows are summed.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/tensor.hpp>

#include "engine/plan.hpp"
#include "kernel/kernel.hpp"

namespace fusedopt {

/// A variable of whose rows a step touches some, or all, but one by one.
struct Table {
    std::size_t variable;   // its place among the jobs of the step
    const Tensor* values;   // [given, ...row shape]; null: rows without gradients
    std::int64_t given;     // rows of `values`
    std::int64_t rows;      // different ones, once they are in order
    std::int64_t row_size;  // elements
    bool is_whole;          // all rows, of the gradient that the variable's job has, if any; there are no indices

    // Of slot k, from one row to the next; null for that of the variable.
    std::array<std::int64_t, kernel::max_slots> slot_sizes;
    std::array<std::int64_t, kernel::max_slots> slot_items;  // bytes of an element

    // A key is a row, then a bit that is set if its gradient is a sum, then the place of its gradient among `values` or
    // the sums. Keys in order are rows in order, and equal rows as they were given.
    std::size_t first_key;
    int shift;  // to the row
    int row_bits;
    const std::uint64_t* sorted;   // of all that is given
    const std::uint64_t* touched;  // of each row

    // Sums of the gradients of rows that occur several times.
    kernel::Element element;  // in which they are made
    std::byte* sums;
    const std::size_t* begins;  // where the keys of each begin
    std::int64_t sum_count;

    std::size_t first_partial;  // among the partial sums of squares of all tables
};

/// The rows that begin before an element.
inline std::int64_t rows_before(const Table& table, std::int64_t element) {
    return (element + table.row_size - 1) / table.row_size;
}

/// Rows that follow each other in a step's order.
struct RowBatch {
    static constexpr std::int64_t most = 32;  // of rows

    const Table& table;
    std::int64_t first;                  // the place of the first one among the rows that are touched
    std::span<kernel::Job> jobs;         // each a whole row
    std::span<const std::int64_t> rows;  // which row each of the jobs is
    int ahead;  // behind the jobs and rows are so many more: of the rows that follow, or of the last one again

    kernel::Stretch stretch() const { return {&jobs.front(), &jobs.back(), 0, jobs.back().size, ahead}; }
};

/// Makes the jobs of a part of a table's rows, batch by batch.
class RowReader {
public:
    /// Rows from place `begin` to `end` among those that are touched; `variable` is the job of the whole table.
    RowReader(const Table& table, const kernel::Job& variable, std::int64_t begin, std::int64_t end);

    bool is_at_end() const { return place_ == end_; }
    RowBatch next();

private:
    static constexpr std::int64_t most = RowBatch::most, most_ahead = 16;

    void describe_dense();
    void fill(std::int64_t from, std::int64_t to);

    const Table& table_;
    kernel::Job whole_;  // its first row, but for the gradient
    std::int64_t place_, end_;
    std::int64_t filled_ = 0;  // of the jobs
    int ahead_;
    std::int64_t weight_bytes_, storage_bytes_, tiles_;  // of a row
    std::int64_t gradient_bytes_ = 0, sum_bytes_ = 0, average_bytes_ = 0, accumulator_bytes_ = 0;
    std::array<std::int64_t, kernel::max_slots> slot_bytes_;
    std::int64_t scale_bytes_ = 0;  // so many more from a row's codes to its scales than from those of the row before
    std::array<kernel::Job, most + most_ahead> jobs_;
    std::array<std::int64_t, most + most_ahead> rows_;
};

class Rows {
public:
    using Who = std::function<std::string()>;  // whose gradient, as messages name it

    /// Begins a step without rows.
    void begin();

    bool empty() const { return tables_.empty(); }
    std::span<const Table> tables() const { return tables_; }

    /// Takes the gradient of some rows. Indices are copied before they are checked: another thread may write them. The
    /// values must stay where they are until the step ends.
    Table& add(std::size_t variable, const Tensor& table, const Tensor& values, const Tensor& indices, const Who& who);

    /// Takes rows without gradients, as they are to be caught up.
    Table& add_indices(std::size_t variable, const Tensor& table, const Tensor& indices, const Who& who);

    /// Puts the rows in order and sums the gradients of equal ones.
    void prepare();

    /// The sums of squares of rows that were given by indices. False if a gradient is not finite.
    bool measure(double unscale, std::span<const kernel::Job> jobs);
    double sum_of_squares(std::size_t variable) const;

    /// Calls use(batch) until each row has been in one batch. `jobs` are those of the step.
    template <class Use>
    void run(std::span<const kernel::Job> jobs, const Use& use) const {
        run(plan_, jobs, use);
    }

private:
    template <class Use>
    void run(const SweepPlan& plan, std::span<const kernel::Job> jobs, const Use& use) const {
        plan.run([&](std::size_t k, std::int64_t begin, std::int64_t end) {
            const Table& table = tables_[k];
            // A row belongs to the part in which it begins.
            RowReader reader(table, jobs[table.variable], rows_before(table, begin), rows_before(table, end));
            while (!reader.is_at_end()) use(reader.next());
        });
    }

    Table& add_table(std::size_t variable, const Tensor& table, const Tensor* values, std::int64_t given);
    Table& add_keys(std::size_t variable, const Tensor& table, const Tensor* values, const Tensor& indices,
                    const Who& who);
    void sort(Table& table);
    static bool has_equal(const Table& table);
    void join_equal(Table& table, std::size_t* begins);
    void sum(const Table& table, std::int64_t begin, std::int64_t end) const;

    std::vector<Table> tables_;
    std::vector<std::size_t> numbers_;  // of the table of each variable that has one
    SweepPlan plan_;
    SweepPlan summed_;
    SweepPlan measured_;

    // These only grow.
    std::vector<std::uint64_t> keys_, other_keys_;
    std::vector<std::size_t> counts_;  // of the keys with each digit
    std::vector<std::size_t> begins_;
    std::vector<double> partials_;
    std::unique_ptr<std::byte[]> sums_;
    std::size_t sums_bytes_ = 0;
    std::size_t used_keys_ = 0;
};

}  // namespace fusedopt
