// The sweep over variables: prepare the gradient, update, finish. The rule is its parameter.
#pragma once

#include "kernel/finish.hpp"
#include "kernel/fused_codes.hpp"
#include "kernel/gradient.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// The rule on the first n elements of a cache line, with every factor folded into scale and keep, and the moving
/// average of what it makes. No array overlaps another: without that promise a slot just written would be loaded again.
template <bool averages, class Rule, class T>
FUSEDOPT_INLINE void update_line(const Rule& rule, T scale, T keep, const Averaging<T>& averaging, std::int64_t n,
                                 T* __restrict w, const T* __restrict g, T* __restrict a, T* __restrict b,
                                 T* __restrict c, T* __restrict average) {
#pragma omp simd
    for (std::int64_t i = 0; i < (writes_by_mask ? line<T> : n); ++i) {
        if (writes_by_mask && i >= n) continue;
        const T x = g[i] * scale;
        T y = w[i] * keep;
        if constexpr (Rule::slot_count == 0) {
            rule(y, x);
        } else if constexpr (Rule::slot_count == 1) {
            rule(y, x, a[i]);
        } else if constexpr (Rule::slot_count == 2) {
            rule(y, x, a[i], b[i]);
        } else {
            rule(y, x, a[i], b[i], c[i]);
        }
        w[i] = y;
        if constexpr (averages) average[i] = averaging(average[i], y);
    }
}

/// The moving average of what the rule has made of a line.
template <class T>
FUSEDOPT_INLINE void average_line(const Averaging<T>& averaging, std::int64_t n, T* __restrict average,
                                  const T* __restrict w) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        average[i] = averaging(average[i], w[i]);
    }
}

/// Elements that `at` below widens at once, at most.
inline constexpr std::int64_t widened_at_once = 128;

/// A piece's gradient in the compute type: `at` gives `count` elements from i on, where `g` is, of `end` in all, and
/// `all` gives the first n ones. If it
/// is a common one, steps without a moving average have a loop of their own, as a branch per line costs a few per cent
/// of the time while arrays lie in a cache. In every loop more there are as many as rules, and a build takes longer.
template <class T>
struct WideGradient {
    static constexpr bool is_common = sizeof(T) == 4;
    const T* g;

    FUSEDOPT_INLINE const T* at(std::int64_t, std::int64_t, std::int64_t, T*) const { return g; }
    FUSEDOPT_INLINE const T* all(std::int64_t, T*) const { return g; }
};

#if defined(__AVX512F__)

/// A piece's gradient in 16 bits, widened line by line. The compiler knows from what, or `batch` would lie in memory.
template <Element element>
struct NarrowGradient {
    static constexpr bool is_common = false;
    const std::uint16_t* g;

    FUSEDOPT_INLINE const float* at(std::int64_t, std::int64_t count, std::int64_t, float* batch) const {
        widen_line<element>(g, count, batch);
        return batch;
    }
    FUSEDOPT_INLINE const float* all(std::int64_t n, float* buffer) const {
        widen_here(element, g, n, buffer);
        return buffer;
    }
};

template <class Use>
FUSEDOPT_INLINE void with_narrow_gradient(const void* source, Element element, const Use& use) {
    const auto* g = static_cast<const std::uint16_t*>(source);
    if (element == Element::float16) {
        use(NarrowGradient<Element::float16>{g});
    } else {
        use(NarrowGradient<Element::bfloat16>{g});
    }
}

#else

/// A piece's gradient in 16 bits, widened into `batch` 128 elements at a time. If the conversions came right next to
/// the rule's division, they would fill the processor's window of instructions, and it could not begin the next line
/// early.
struct NarrowGradient {
    static constexpr bool is_common = false;
    const std::uint16_t* g;
    Element element;

    FUSEDOPT_INLINE const float* at(std::int64_t i, std::int64_t, std::int64_t end, float* batch) const {
        if (i % widened_at_once == 0) {
            widen_here(element, g, end - i < widened_at_once ? end - i : widened_at_once, batch);
        }
        return batch + i % widened_at_once;
    }
    FUSEDOPT_INLINE const float* all(std::int64_t n, float* buffer) const {
        widen_here(element, g, n, buffer);
        return buffer;
    }
};

template <class Use>
FUSEDOPT_INLINE void with_narrow_gradient(const void* source, Element element, const Use& use) {
    use(NarrowGradient{static_cast<const std::uint16_t*>(source), element});
}

#endif

/// A piece of a variable, a cache line of every array at a time: each is prefetched once, and memory and arithmetic
/// work side by side. The rule comes by value: a reference could alias the arrays, and its scalars would be loaded
/// again and again.
template <bool averages, class Rule, class T, class Gradient>
void update_lines(Rule rule, T scale, T keep, Averaging<T> averaging, std::int64_t n, T* w, Gradient gradient, T* a,
                  T* b, T* c, T* average, Ahead ahead) {
    alignas(64) T batch[widened_at_once];
    std::int64_t i = 0;
    for (; i + line<T> <= n; i += line<T>) {
        // Each array keeps a pointer of its own: with a common index, a processor does more work per access.
        __asm__("" : "+r"(w), "+r"(gradient.g));
        prefetch_now(w, ahead.weight);
        prefetch_now(gradient.g, ahead.gradient);
        if constexpr (Rule::slot_count > 0) {
            __asm__("" : "+r"(a));
            prefetch_now(a, ahead.slots);
        }
        if constexpr (Rule::slot_count > 1) {
            __asm__("" : "+r"(b));
            prefetch_now(b, ahead.slots);
        }
        if constexpr (Rule::slot_count > 2) {
            __asm__("" : "+r"(c));
            prefetch_now(c, ahead.slots);
        }
        update_line<false>(rule, scale, keep, averaging, line<T>, w, gradient.at(i, line<T>, n, batch), a, b, c,
                           average);
        if (averages && __builtin_expect(average != nullptr, false)) {
            prefetch(average + i);
            average_line(averaging, line<T>, average + i, w);
        }
        w += line<T>;
        gradient.g += line<T>;
        if constexpr (Rule::slot_count > 0) a += line<T>;
        if constexpr (Rule::slot_count > 1) b += line<T>;
        if constexpr (Rule::slot_count > 2) c += line<T>;
    }
    if (i == n) return;
    const T* g = gradient.at(i, n - i, n, batch);
    if constexpr (averages && writes_by_mask) {
        // What is written by mask cannot be read back at once, so the average is taken along, if only of scrap.
        alignas(64) T scrap[line<T>] = {};
        update_line<true>(rule, scale, keep, averaging, n - i, w, g, a, b, c, average ? average + i : scrap);
    } else {
        update_line<false>(rule, scale, keep, averaging, n - i, w, g, a, b, c, average);
        if (averages && average) average_line(averaging, n - i, average + i, w);
    }
}

/// True if the rule takes the numbers of a gradient as they are, so that nothing is converted, averaged or clipped
/// before.
template <class T>
FUSEDOPT_INLINE bool is_direct(const Step& step, const Job& job) {
    const bool is_widened_by_line = sizeof(T) == 4 && bytes_of(job.gradient_element) == 2;
    return (job.gradient_element == ElementOf<T>::value || is_widened_by_line) && !job.accumulator &&
           is_representable<T>(scale_of(step, job)) && !clips_values(step);
}

/// Updates a piece of a variable. If the gradient is not direct, the piece is a tile at most, and its gradient is
/// prepared first. Coded slots are opened and closed in `open`, where `slots` points to then. Null: they are not coded.
template <class Rule, class T>
FUSEDOPT_INLINE void update_piece(const Rule& rule, const Step& step, const Job& job, bool direct, std::int64_t begin,
                                  std::int64_t n, const Averaging<T>& averaging, T* w, const void* source,
                                  T* const (&slots)[max_slots], OpenSlots* open, T* buffer, const Ahead& ahead) {
    constexpr int coded_slots = sizeof(T) == 4 ? coded_slots_of<Rule>() : 0;
    const T keep = keep_of<T>(step, job);
    const auto update = [&](T scale, auto gradient) __attribute__((always_inline)) {
        if constexpr (coded_slots > 0 && opens_in_registers<Rule>) {
            if (open && !averaging.average && is_fused(step, job, begin, n)) {
                const T* g = gradient.all(n, buffer);
                return update_fused(rule, step, job, begin, n, scale, keep, w, g, *open, ahead);
            }
        }
        if constexpr (coded_slots > 0) {
            if (open) open_slots(step, job, coded_slots, begin, n, *open);
        }
        bool averages = true;
        if constexpr (decltype(gradient)::is_common) {
            if (!averaging.average) {
                averages = false;
                update_lines<false>(rule, scale, keep, averaging, n, w, gradient, slots[0], slots[1], slots[2],
                                    averaging.average, ahead);
            }
        }
        if (averages) {
            update_lines<true>(rule, scale, keep, averaging, n, w, gradient, slots[0], slots[1], slots[2],
                               averaging.average ? averaging.average + begin : nullptr, ahead);
        }
        if constexpr (coded_slots > 0) {
            if (open) close_slots(step, job, coded_slots, begin, n, *open);
        }
    };
    const T* g = static_cast<const T*>(source);
    T scale = static_cast<T>(scale_of(step, job));
    if constexpr (sizeof(T) == 4) {
        if (direct && bytes_of(job.gradient_element) == 2) {
            const auto update_narrow = [&](auto gradient) __attribute__((always_inline)) {
                update(scale, gradient);
            };
            return with_narrow_gradient(source, job.gradient_element, update_narrow);
        }
    }
    if (!direct) {
        scale = prepare(step, job, source, begin, n, g, buffer);
        empty_accumulator<T>(job, begin, n);
    }
    update(scale, WideGradient<T>{g});
}

template <template <class> class Rule, class T>
void update(const Step& step, const Stretch& stretch) {
    const auto rule = with_scalars<Rule<T>, T>(step.scalars);
    constexpr int coded_slots = sizeof(T) == 4 ? coded_slots_of<Rule<T>>() : 0;
    alignas(64) T buffer[tile], widened[tile];
    GatherBuffer gathered;
    OpenSlots open;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const Averaging<T> averaging(step, *job);
        const bool direct = is_direct<T>(step, *job);
        const bool coded = coded_slots > 0 && is_coded(*job);
        // Works in pieces only if a buffer is used, or if a later stage should find the data in the cache. Each border
        // of a tile costs 10 to 20 ns, so otherwise the whole variable is updated in one go.
        const bool in_tiles = !direct || job->strides || job->storage || step.overwrite;
        const std::int64_t end = end_in(stretch, job);
        const std::int64_t most = coded ? coded_piece : in_tiles ? tile : end;
        const Ahead ahead = ahead_of<T>(stretch, job, direct, coded);
        for (std::int64_t i = begin_in(stretch, job), n; i < end; i += n) {
            n = end - i < most ? end - i : most;
            const void* source = contiguous(*job, i, n, gathered);
            T* w = open_piece(*job, i, n, widened);
            T* slots[max_slots];
            for (int k = 0; k < max_slots; ++k)
                slots[k] = k < Rule<T>::slot_count ? static_cast<T*>(job->slots[k]) + i : nullptr;
            if constexpr (coded_slots > 0) {
                for (int k = 0; coded && k < coded_slots; ++k) slots[k] = open.numbers[k];
            }
            update_piece(rule, step, *job, direct, i, n, averaging, w, source, slots, coded ? &open : nullptr, buffer,
                         ahead);
            if (job->average || job->storage) {
                store_tile(step, *job, i, n, w);
            }
        }
    }
}

/// Everything a step does to a variable that the rule does not touch in it.
template <class T>
void other_work(const Step& step, const Stretch& stretch) {
    alignas(64) T buffer[tile];
    GatherBuffer gathered;
    for (const Job* job = stretch.first; job <= stretch.last; ++job) {
        const std::int64_t end = end_in(stretch, job);
        for (std::int64_t i = begin_in(stretch, job); i < end; i += tile) {
            const std::int64_t n = end - i < tile ? end - i : tile;
            T* accumulator = static_cast<T*>(job->accumulator) + i;
            if (job->work == Work::accumulate) {
                add_accumulated(step.unscale, *job, contiguous(*job, i, n, gathered), i, n, buffer);
                __builtin_memcpy(accumulator, buffer, static_cast<unsigned long>(n) * sizeof(T));
            } else if (job->work == Work::discard) {
                __builtin_memset(accumulator, 0, static_cast<unsigned long>(n) * sizeof(T));
            }
            if (job->average) {
                finish_tile(step, *job, i, n, open_piece(*job, i, n, buffer));
            }
        }
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
