// The rows of a variable as jobs of their own: a row is what the first dimension counts.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>

#include "kernel/kernel.hpp"
#include "rules/rule.hpp"

namespace fusedopt {

/// The elements of each slot that belong to a row.
inline std::array<std::int64_t, kernel::max_slots> slot_sizes(const RuleSpec& branch, std::int64_t row_size) {
    std::array<std::int64_t, kernel::max_slots> sizes;
    sizes.fill(row_size);
    for (std::size_t k = 0; k < branch.slots.size(); ++k) {
        if (branch.slots[k].form == Form::rowwise) sizes[k] = 1;
    }
    return sizes;
}

class RowJobs {
public:
    RowJobs(const kernel::Job& variable, std::int64_t rows, const RuleSpec& branch)
        : first_(variable), size_(variable.size / rows) {
        const std::int64_t item = variable.computes_in_double ? 8 : 4;
        first_.size = size_;
        weight_ = item * size_;
        storage_ = 2 * size_;
        slots_ = slot_sizes(branch, size_);
        for (std::int64_t& slot : slots_) slot *= item;
        if (variable.strides) {
            gradient_ = variable.strides[0];
            ++first_.shape;
            ++first_.strides;
            --first_.rank;
        } else {
            gradient_ = item_size(variable.gradient_element) * size_;
        }
    }

    std::int64_t row_size() const { return size_; }

    kernel::Job row(std::int64_t index) const {
        kernel::Job job = first_;
        move(job.weight, weight_ * index);
        move(job.storage, storage_ * index);
        move(job.average, weight_ * index);
        move(job.accumulator, weight_ * index);
        for (std::size_t k = 0; k < kernel::max_slots; ++k) move(job.slots[k], slots_[k] * index);
        job.gradient = static_cast<const std::byte*>(job.gradient) + gradient_ * index;
        return job;
    }

private:
    static std::int64_t item_size(kernel::Element element) {
        return element == kernel::Element::float64 ? 8 : element == kernel::Element::float32 ? 4 : 2;
    }

    static void move(void*& array, std::int64_t bytes) {
        if (array) array = static_cast<std::byte*>(array) + bytes;
    }

    kernel::Job first_;
    std::int64_t size_;
    std::int64_t weight_, storage_, gradient_;  // bytes from one row to the next
    std::array<std::int64_t, kernel::max_slots> slots_;
};

/// Calls sweep(stretch) for the rows that begin in elements [begin, end) of a variable, some at a time.
template <class Sweep>
void run_rows(const RowJobs& rows, std::int64_t begin, std::int64_t end, const Sweep& sweep) {
    constexpr std::int64_t at_once = 16;
    kernel::Job jobs[at_once];
    const std::int64_t size = rows.row_size(), last = (end + size - 1) / size;
    for (std::int64_t row = (begin + size - 1) / size; row < last; row += at_once) {
        const std::int64_t count = std::min(at_once, last - row);
        for (std::int64_t k = 0; k < count; ++k) jobs[k] = rows.row(row + k);
        sweep(kernel::Stretch{jobs, jobs + count - 1, 0, size});
    }
}

}  // namespace fusedopt
