// The sweep of a rule that the program brings along: all that sweep.hpp does around a formula, and in its place a call
// of the program's function.
#pragma once

#include "kernel/sweep.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

FUSEDOPT_INLINE OwnUpdate<float> update_of(const OwnFormula& own, float) {
    return own.in_float;
}
FUSEDOPT_INLINE OwnUpdate<double> update_of(const OwnFormula& own, double) {
    return own.in_double;
}

/// All of a row that follows: the program's loop fetches nothing of it.
template <class T>
FUSEDOPT_NOINLINE void prefetch_row(const Job& row, bool direct, bool coded) {
    prefetch_rest<T>(row, direct, coded);
    const std::int64_t most = row.size < tile ? row.size : tile;
    for (std::int64_t i = 0; i < most; i += line<T>) {
        if (row.weight) prefetch_now(static_cast<const T*>(row.weight) + i);
        if (direct) prefetch_now(static_cast<const T*>(row.gradient) + i);
        for (int k = 0; k < max_slots; ++k) {
            if (!coded && row.slots[k]) prefetch_now(static_cast<const T*>(row.slots[k]) + i);
        }
    }
}

template <class T>
void update_own(const Step& step, const Stretch& stretch) {
    const auto formula = update_of(step.own, T());
    const int slot_count = step.own.slot_count;
    alignas(64) T buffer[tile], widened[tile];
    GatherBuffer gathered;
    OpenSlots open;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const bool coded = sizeof(T) == 4 && is_coded(*job);
        const bool in_tiles = job->gradient_element != ElementOf<T>::value || !is_direct<T>(step, *job) ||
                              job->strides || job->storage || job->average;
        const std::int64_t end = end_in(stretch, job);
        const std::int64_t most = coded ? coded_piece : in_tiles ? tile : end;
        if (stretch.ahead > 0) prefetch_row<T>(job[stretch.ahead], !in_tiles, coded);
        for (std::int64_t i = begin_in(stretch, job), n; i < end; i += n) {
            n = end - i < most ? end - i : most;
            const T* g;
            const T scale = prepare(step, *job, contiguous(*job, i, n, gathered), i, n, g, buffer);
            empty_accumulator<T>(*job, i, n);
            T* w = open_piece(*job, i, n, widened);
            T* slots[max_slots] = {};
            for (int k = 0; k < slot_count; ++k) slots[k] = static_cast<T*>(job->slots[k]) + i;
            if constexpr (sizeof(T) == 4) {
                if (coded) {
                    open_slots(step, *job, slot_count, i, n, open);
                    for (int k = 0; k < slot_count; ++k) slots[k] = open.numbers[k];
                }
            }
            formula(step.scalars.values, scale, keep_of<T>(step, *job), n, w, g, slots);
            if (coded) close_slots(step, *job, slot_count, i, n, open);
            finish_tile(step, *job, i, n, w);
        }
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
