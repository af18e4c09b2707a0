// Threads: how many there are, and how they share work in the kernels' floating-point state. Only this room knows
// OpenMP, and OpenMP's settings hold here. The threads are our own, because an OpenMP region ends only when each of its
// threads has begun. On a busy machine that takes many times as long as the work itself.
#pragma once

#include <cstdint>

#include "runtime/float_environment.hpp"

namespace fusedopt {

/// The threads a step over `elements` elements uses: one below the size at which a second one pays.
int threads_for(std::int64_t elements);

/// Into how many shares of about equal size to cut the work on `elements` elements.
std::int64_t shares_for(int threads, std::int64_t elements);

/// Calls work(argument, k) once for each k from 0 to `shares`, on this thread and on those others that come in time.
void share_out(int threads, std::int64_t shares, void (*work)(const void*, std::int64_t), const void* argument);

/// Calls work(k) once for each k from 0 to `shares`, on up to `threads` threads.
template <class Work>
void run_on_threads(int threads, std::int64_t shares, const Work& work) {
    const auto call = [](const void* argument, std::int64_t k) { (*static_cast<const Work*>(argument))(k); };
    if (threads > 1) return share_out(threads, shares, call, &work);
    const FloatEnvironment environment;
    for (std::int64_t k = 0; k < shares; ++k) work(k);
}

}  // namespace fusedopt
