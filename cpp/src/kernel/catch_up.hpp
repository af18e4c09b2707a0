// Gives rows what they have missed. What that is has been put together before; here it is two numbers per row for the
// variable and one for each slot, whatever the rule is.
#pragma once

#include "kernel/finish.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

/// A factor in T. One beyond T's range stays finite, so that a zero stays zero.
template <class T>
FUSEDOPT_INLINE T bounded(double factor) {
    constexpr double largest = Limits<T>::largest;
    return static_cast<T>(factor > largest ? largest : factor < -largest ? -largest : factor);
}

template <class T>
FUSEDOPT_NOINLINE void prefetch_table_row(const Job& row, const std::int64_t* slot_sizes) {
    const auto lines = [](const void* first, std::int64_t bytes) {
        const std::int64_t most = bytes < 4096 ? bytes : 4096;
        for (std::int64_t i = 0; i < most; i += 64) prefetch_now(static_cast<const char*>(first) + i);
        prefetch_now(static_cast<const char*>(first) + most - 1);
    };
    const auto size = static_cast<std::int64_t>(sizeof(T));
    if (row.weight) lines(row.weight, row.size * size);
    if (row.storage) lines(row.storage, row.size * 2);
    for (int k = 0; k < max_slots; ++k) {
        if (row.slots[k]) lines(row.slots[k], slot_sizes[k] * size);
    }
}

/// w <- keep w + move x
template <class T>
FUSEDOPT_NOINLINE void move_elements(T keep, T move, const T* __restrict x, std::int64_t n, T* __restrict w) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        w[i] = keep * w[i] + move * x[i];
    }
}

/// w <- keep w + move sign(x)
template <class T>
FUSEDOPT_NOINLINE void move_elements_by_sign(T keep, T move, const T* __restrict x, std::int64_t n, T* __restrict w) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        w[i] = keep * w[i] + times_sign(move, x[i]);
    }
}

template <class T>
FUSEDOPT_NOINLINE void scale_elements(T factor, std::int64_t n, T* x) {
#pragma omp simd
    for (std::int64_t i = 0; i < n; ++i) {
        x[i] = factor * x[i];
    }
}

/// A factor that turns a number into zero if the last of the steps missed could have found a zero to take the sign of.
/// Some numbers lose their sign by it that did not on the way, but none the other way round.
template <class T>
FUSEDOPT_INLINE T sign_factor(const CatchUp& all, const Missed& missed) {
    return static_cast<T>(missed.factors[all.moving_slot] * missed.sign_factor);
}

/// True if one of these numbers becomes zero by the factor.
template <class T>
FUSEDOPT_NOINLINE bool any_vanishes(T factor, const T* x, std::int64_t n) {
    int any = 0;
#pragma omp simd reduction(| : any)
    for (std::int64_t i = 0; i < n; ++i) {
        any |= static_cast<int>(x[i] != 0) & static_cast<int>(factor * x[i] == 0);
    }
    return any != 0;
}

/// The same as move_elements_by_sign, for elements of which some lost their sign on the way.
template <class T>
FUSEDOPT_NOINLINE void move_elements_until_zero(const CatchUp& all, const Missed& missed, const T* x, std::int64_t n,
                                                T* w) {
    const T keep = bounded<T>(missed.keep), factor = sign_factor<T>(all, missed);
    for (std::int64_t i = 0; i < n; ++i) {
        const bool vanishes = x[i] != 0 && factor * x[i] == 0;
        const double move =
            vanishes ? all.move_until_zero(all.history, missed.entry, static_cast<double>(x[i])) : missed.move;
        w[i] = keep * w[i] + times_sign(bounded<T>(move), x[i]);
    }
}

template <class T>
void catch_up_weight(const CatchUp& all, const Missed& missed, const Job& row) {
    alignas(64) T widened[tile];
    const T keep = bounded<T>(missed.keep), move = bounded<T>(missed.move);
    const bool moves = all.moving_slot >= 0 && missed.move != 0;
    if (!moves && missed.keep == 1) return;
    const T* x = moves ? static_cast<const T*>(row.slots[all.moving_slot]) : nullptr;
    for (std::int64_t i = 0, n; i < row.size; i += n) {
        n = row.storage && row.size - i > tile ? tile : row.size - i;
        T* const w = open_piece(row, i, n, widened);
        if (!moves) {
            scale_elements(keep, n, w);
        } else if (!all.moves_by_sign) {
            move_elements(keep, move, x + i, n, w);
        } else if (any_vanishes(sign_factor<T>(all, missed), x + i, n)) {
            move_elements_until_zero(all, missed, x + i, n, w);
        } else {
            move_elements_by_sign(keep, move, x + i, n, w);
        }
        if (row.storage) {
            Step step = {};
            step.seed = all.seed;
            store_tile(step, row, i, n, w, 1 + max_slots);
        }
    }
}

template <class T>
void catch_up(const CatchUp& all, const Stretch& stretch) {
    const Missed* missed = all.missed;
    for (const Job* row = stretch.first; row <= stretch.last; ++row, ++missed) {
        if (stretch.ahead) prefetch_table_row<T>(row[stretch.ahead], all.slot_sizes);
        catch_up_weight<T>(all, *missed, *row);
        for (int k = 0; k < max_slots; ++k) {
            if (!row->slots[k] || missed->factors[k] == 1) continue;
            scale_elements(static_cast<T>(missed->factors[k]), all.slot_sizes[k], static_cast<T*>(row->slots[k]));
        }
    }
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
