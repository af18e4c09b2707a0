// The processors that threads may run on, and whether OpenMP has bound them.
#pragma once

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

namespace fusedopt {

// OpenMP may have bound this thread to one of its places; the process has them all.
inline bool is_bound_by_openmp() {
#if defined(_OPENMP)
    return omp_get_num_places() > 0;
#else
    return false;
#endif
}

#if defined(__linux__)

struct Affinity {
    cpu_set_t set;
    bool is_known;

    bool operator==(const Affinity& other) const {
        return is_known == other.is_known && (!is_known || CPU_EQUAL(&set, &other.set));
    }
};

inline Affinity current_affinity() {
    Affinity affinity;
    affinity.is_known = sched_getaffinity(0, sizeof(affinity.set), &affinity.set) == 0;
    return affinity;
}

#endif

}  // namespace fusedopt
