// The limit a benchmark compares with: the plainest loop that reads some arrays and reads and writes others. It writes
// back what it read (0 x is added), so it can run on an optimizer's own memory: where arrays lie changes the limit.
#pragma once

#include "kernel/kernel.hpp"
#include "kernel/math.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

template <int updated, int read>
void traffic_loop(void* const* updated_arrays, const void* const* read_arrays, std::int64_t begin, std::int64_t end) {
    float* w[updated > 0 ? updated : 1];
    const float* r[read > 0 ? read : 1];
    for (int k = 0; k < updated; ++k) w[k] = static_cast<float*>(updated_arrays[k]);
    for (int k = 0; k < read; ++k) r[k] = static_cast<const float*>(read_arrays[k]);
    float seen = 0;
#pragma omp simd reduction(+ : seen)
    for (std::int64_t i = begin; i < end; ++i) {
        float x = 0;
        for (int k = 0; k < read; ++k) x += r[k][i];
        for (int k = 0; k < updated; ++k) w[k][i] += x * 0.0f;
        if constexpr (updated == 0) seen += x;
    }
    if constexpr (updated == 0) {
        volatile float sink = seen;
        (void)sink;
    }
}

template <int updated>
void traffic_reading(void* const* updated_arrays, const void* const* read_arrays, int read_count, std::int64_t begin,
                     std::int64_t end) {
    if (read_count == 0) traffic_loop<updated, 0>(updated_arrays, read_arrays, begin, end);
    if (read_count == 1) traffic_loop<updated, 1>(updated_arrays, read_arrays, begin, end);
    if (read_count == 2) traffic_loop<updated, 2>(updated_arrays, read_arrays, begin, end);
}

inline void traffic(void* const* updated_arrays, int updated_count, const void* const* read_arrays, int read_count,
                    std::int64_t begin, std::int64_t end) {
    if (updated_count == 0) traffic_reading<0>(updated_arrays, read_arrays, read_count, begin, end);
    if (updated_count == 1) traffic_reading<1>(updated_arrays, read_arrays, read_count, begin, end);
    if (updated_count == 2) traffic_reading<2>(updated_arrays, read_arrays, read_count, begin, end);
    if (updated_count == 3) traffic_reading<3>(updated_arrays, read_arrays, read_count, begin, end);
    if (updated_count == 4) traffic_reading<4>(updated_arrays, read_arrays, read_count, begin, end);
    if (updated_count == 5) traffic_reading<5>(updated_arrays, read_arrays, read_count, begin, end);
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
