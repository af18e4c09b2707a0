// What a sweep fetches before it needs it: how far ahead in a variable, and what of a row that follows. Nothing is
// computed here.
#pragma once

#include "kernel/gradient.hpp"
#include "kernel/slot_codes.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// How many bytes further on arrays are fetched: in the same variable, or in a row that follows.
struct Ahead {
    std::int64_t gradient;
    std::int64_t weight;
    std::int64_t slots;
};

/// What the loop over a row's lines does not fetch of it.
template <class T>
FUSEDOPT_NOINLINE void prefetch_rest(const Job& row, bool direct, bool coded) {
    const auto lines = [](const void* first, std::int64_t bytes) {
        for (std::int64_t i = 0; i < bytes; i += 64) prefetch_now(static_cast<const char*>(first) + i);
    };
    // The last line, where the row is not as long as some lines or does not begin with one.
    const std::int64_t last = row.size - 1;
    if (row.weight) prefetch_now(static_cast<const T*>(row.weight) + last);
    const std::int64_t most = row.size < tile ? row.size : tile;
    for (int k = 0; k < max_slots; ++k) {
        if (!row.slots[k]) continue;
        if (coded) {
            prefetch_codes(row, k, 0, most);
        } else {
            prefetch_now(static_cast<const T*>(row.slots[k]) + last);
        }
    }
    const std::int64_t bytes = bytes_of(row.gradient_element);
    if (direct) {
        prefetch_now(static_cast<const char*>(row.gradient) + last * bytes);
    } else {
        lines(row.gradient, most * bytes);
    }
    if (row.storage) lines(row.storage, most * 2);
}

template <class T>
FUSEDOPT_INLINE Ahead ahead_of(const Stretch& stretch, const Job* job, bool direct, bool coded) {
    // What is prepared or opened in a buffer lies in the cache.
    if (stretch.ahead == 0) return {prefetch_bytes, prefetch_bytes, coded ? 0 : prefetch_bytes};
    const Job& next = job[stretch.ahead];
    const bool reads_gradient = direct && !job->strides;
    prefetch_rest<T>(next, reads_gradient, coded);
    const auto distance = [](const void* from, const void* to) {
        return static_cast<const char*>(to) - static_cast<const char*>(from);
    };
    const std::int64_t others = job->weight ? distance(job->weight, next.weight) : 0;
    return {reads_gradient ? distance(job->gradient, next.gradient) : 0, others, coded ? 0 : others};
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
