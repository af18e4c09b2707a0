// The sweep over rows of a rule that keeps one second moment for each row: the mean of g^2 over the row takes the place
// of g^2. A job is one whole row. A formula says which of its slots, row_slot and those after it, hold a number a row,
// and has two halves: second_moment(square, slot...) for the row, and move(w, g, other slot..., moment) for an element.
#pragma once

#include "kernel/finish.hpp"
#include "kernel/gradient.hpp"
#include "kernel/measure.hpp"
#include "kernel/sweep.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// A tile of the gradient as the rule takes it.
template <class T>
FUSEDOPT_NOINLINE void load_scaled(const Step& step, const Job& job, std::int64_t begin, std::int64_t n,
                                   GatherBuffer& gathered, T* buffer) {
    const T* g;
    const T scale = prepare(step, job, contiguous(job, begin, n, gathered), begin, n, g, buffer);
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        buffer[i] = g[i] * scale;
    }
}

/// Adds squares as `measure` does.
template <class T>
FUSEDOPT_INLINE double sum_of_squares(const T* g, std::int64_t n) {
    Lanes squares;
    const std::int64_t whole = n / lanes * lanes;
    add_rows(g, whole, squares);
    if (whole < n) {
        alignas(64) T row[lanes];
        copy_part(g + whole, n - whole, row);
        add_rows(row, lanes, squares);
    }
    return squares.sum();
}

/// The mean of g^2 over a row. The buffer then holds the row's last tile.
template <class T>
FUSEDOPT_NOINLINE T mean_square(const Step& step, const Job& job, GatherBuffer& gathered, T* buffer) {
    const bool is_plain =
        is_direct<T>(step, job) && job.gradient_element == ElementOf<T>::value && !job.strides && job.size <= tile;
    double sum = 0.0;
    for (std::int64_t i = 0; i < job.size; i += tile) {
        const std::int64_t n = job.size - i < tile ? job.size - i : tile;
        if (is_plain) {
            const T* g = static_cast<const T*>(job.gradient);
            const T scale = static_cast<T>(scale_of(step, job));
#pragma omp simd
            for (std::int64_t k = 0; k < n; ++k) {
                buffer[k] = g[k] * scale;
            }
        } else {
            load_scaled(step, job, i, n, gathered, buffer);
        }
        sum += sum_of_squares(buffer, n);
    }
    return static_cast<T>(sum / static_cast<double>(job.size));
}

/// Moves the row's slots, and returns the moment that its elements take.
template <class Formula, class T>
FUSEDOPT_INLINE T move_moment(const Formula& rule, const Job& job, T mean) {
    T* const moment = static_cast<T*>(job.slots[Formula::row_slot]);
    if constexpr (Formula::row_slots == 1) {
        rule.second_moment(mean, *moment);
        return *moment;
    } else {
        T* const largest = static_cast<T*>(job.slots[Formula::row_slot + 1]);
        rule.second_moment(mean, *moment, *largest);
        return *largest;
    }
}

/// Whether a formula also has a slot of elements.
template <class Formula>
inline constexpr bool has_slot = Formula::slot_count > Formula::row_slots;

/// The first n elements of a cache line.
template <class Formula, class T>
FUSEDOPT_INLINE void move_line(const Formula& rule, T keep, T moment, std::int64_t n, T* __restrict w,
                               const T* __restrict g, T* __restrict slot) {
#pragma omp simd
    for (std::int64_t i = 0; i < (writes_by_mask ? line<T> : n); ++i) {
        if (writes_by_mask && i >= n) continue;
        T y = w[i] * keep;
        if constexpr (has_slot<Formula>) {
            rule.move(y, g[i], slot[i], moment);
        } else {
            rule.move(y, g[i], moment);
        }
        w[i] = y;
    }
}

/// Fetches a row before its turn comes.
FUSEDOPT_NOINLINE void prefetch_row(const Job& row, int row_slot, int row_slots) {
    const std::int64_t n = row.size < tile ? row.size : tile;
    const std::int64_t bytes = row.computes_in_double ? 8 : 4;
    const auto fetch = [](const void* first, std::int64_t size) {
        if (!first) return;
        for (std::int64_t i = 0; i < size; i += 64) prefetch_now(static_cast<const char*>(first) + i);
        prefetch_now(static_cast<const char*>(first) + size - 1);
    };
    fetch(row.gradient, n * bytes_of(row.gradient_element));
    fetch(row.weight, n * bytes);
    fetch(row.storage, n * 2);
    for (int k = 0; k < max_slots; ++k) {
        if (k >= row_slot && k < row_slot + row_slots) {
            fetch(row.slots[k], bytes);
        } else if (is_coded(row)) {
            if (row.slots[k]) prefetch_codes(row, k, 0, n);
        } else {
            fetch(row.slots[k], n * bytes);
        }
    }
}

template <class Formula, class T>
void move_lines(Formula rule, T keep, T moment, std::int64_t n, T* w, const T* g, T* slot) {
    const auto move = [&](std::int64_t i, std::int64_t count) __attribute__((always_inline)) {
        move_line(rule, keep, moment, count, w + i, g + i, has_slot<Formula> ? slot + i : slot);
    };
    std::int64_t i = 0;
    for (; i + line<T> <= n; i += line<T>) move(i, line<T>);
    if (i < n) move(i, n - i);
}

template <template <class> class Formula, class T>
void update_rowwise(const Step& step, const Stretch& stretch) {
    using Rule = Formula<T>;
    static_assert(Rule::slot_count - Rule::row_slots <= 1 && Rule::row_slots <= 2);
    const auto rule = with_scalars<Rule, T>(step.scalars);
    constexpr int own_slot = Rule::row_slot == 0 ? Rule::row_slots : 0;
    alignas(64) T g[tile], widened[tile], numbers[tile];
    GatherBuffer gathered;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        prefetch_row(job[stretch.ahead], Rule::row_slot, Rule::row_slots);
        const T keep = keep_of<T>(step, *job);
        const T moment = move_moment(rule, *job, mean_square(step, *job, gathered, g));
        for (std::int64_t i = 0; i < job->size; i += tile) {
            const std::int64_t n = job->size - i < tile ? job->size - i : tile;
            if (job->size > tile) load_scaled(step, *job, i, n, gathered, g);
            empty_accumulator<T>(*job, i, n);
            T* const w = open_piece(*job, i, n, widened);
            if constexpr (has_slot<Rule>) {
                T* open[max_slots] = {};
                open[own_slot] = open_numbers(step, *job, own_slot, i, n, numbers);
                move_lines(rule, keep, moment, n, w, g, open[own_slot]);
                close_numbers(step, *job, i, n, open);
            } else {
                move_lines<Rule, T>(rule, keep, moment, n, w, g, nullptr);
            }
            if (job->average || job->storage) finish_tile(step, *job, i, n, w);
        }
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
