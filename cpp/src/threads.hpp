// Threads: how many, and running a body on them in the kernels' floating-point state. The one place that knows OpenMP.
#pragma once

#include <cstdint>

#if defined(_OPENMP)
#include <omp.h>
#endif

#include "float_environment.hpp"

namespace fusedopt {

/// The threads a step over `elements` elements uses: one below the size at which a second one pays.
int threads_for(std::int64_t elements);

/// Notes that worker threads exist. A forked child does not have them and stays on one thread.
void note_team_started();

/// Runs job(argument) on another thread where the calling one was forked and may have had a team that is not ours, else
/// returns false. OpenMP keeps a team for each thread that ever started one, and would wait for the lost one forever.
bool run_by_deputy(void (*job)(const void*), const void* argument);

/// Runs body(index, count) once on each of `threads` threads, or on fewer where the system gives fewer.
template <class Body>
void run_on_threads(int threads, const Body& body) {
#if defined(_OPENMP)
    const auto run_on_team = [&] {
#pragma omp parallel num_threads(threads)
        {
            const FloatEnvironment environment;
            body(omp_get_thread_num(), omp_get_num_threads());
        }
    };
    if (threads > 1) {
        note_team_started();
        const auto job = [](const void* team) { (*static_cast<const decltype(run_on_team)*>(team))(); };
        if (!run_by_deputy(job, &run_on_team)) run_on_team();
        return;
    }
#endif
    (void)threads;
    const FloatEnvironment environment;
    body(0, 1);
}

}  // namespace fusedopt
