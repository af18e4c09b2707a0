// The few scalar functions of the kernels, compiled into each level.
#pragma once

#include <cstdint>

#include "kernel/kernel.hpp"

#define FUSEDOPT_INLINE __attribute__((always_inline)) inline
// What is called once a tile or a variable: a copy in every rule would only cost compile time and space.
#define FUSEDOPT_NOINLINE __attribute__((noinline)) inline

// Files in rules/ include a formula's file for its scalars alone; what else it holds is in no level then.
#ifndef FUSEDOPT_LEVEL
#define FUSEDOPT_LEVEL no_level
#endif

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

FUSEDOPT_INLINE float square_root(float x) {
    return __builtin_sqrtf(x);
}
FUSEDOPT_INLINE double square_root(double x) {
    return __builtin_sqrt(x);
}

FUSEDOPT_INLINE float absolute(float x) {
    return __builtin_fabsf(x);
}
FUSEDOPT_INLINE double absolute(double x) {
    return __builtin_fabs(x);
}

FUSEDOPT_INLINE float raise(float x, float power) {
    return __builtin_powf(x, power);
}
FUSEDOPT_INLINE double raise(double x, double power) {
    return __builtin_pow(x, power);
}

// Selects, not fmin/fmax: a NaN in the last operand must stay NaN, as in np.clip. The first one is a bound, never NaN.
template <class T>
FUSEDOPT_INLINE T larger(T low, T x) {
    return low > x ? low : x;
}
template <class T>
FUSEDOPT_INLINE T smaller(T high, T x) {
    return high < x ? high : x;
}
template <class T>
FUSEDOPT_INLINE T not_below_zero(T x) {
    return larger(T(0), x);
}

/// The larger of two numbers of the state, NaN if either is, as np.maximum.
template <class T>
FUSEDOPT_INLINE T maximum(T a, T b) {
    const T chosen = larger(a, b);  // b if either is NaN
    return a == a ? chosen : a;
}

/// size sign(x). The sign of 0 is 0, and that of NaN is NaN. The code selects, so that nothing branches.
template <class T>
FUSEDOPT_INLINE T times_sign(T size, T x) {
    return x > 0 ? size : x < 0 ? -size : x;
}

/// g + decay w. Without decay an infinite w leaves g as it is. The code selects, so that nothing branches.
template <class T>
FUSEDOPT_INLINE T with_decay(T decay, T w, T g) {
    return decay != 0 ? g + decay * w : g;
}

template <class T>
struct Limits;
template <>
struct Limits<float> {
    static constexpr double smallest_normal = 0x1p-126;
    static constexpr double largest = 0x1.fffffep127;
};
template <>
struct Limits<double> {
    static constexpr double smallest_normal = 0x1p-1022;
    static constexpr double largest = 0x1.fffffffffffffp1023;
};

// False for a factor that T would turn into zero, a subnormal or infinity. Zero, infinity and NaN are what they are.
template <class T>
FUSEDOPT_INLINE bool is_representable(double factor) {
    const double magnitude = __builtin_fabs(factor);
    return !(magnitude > 0 && magnitude < Limits<T>::smallest_normal) &&
           !(magnitude > Limits<T>::largest && magnitude <= Limits<double>::largest);
}

FUSEDOPT_INLINE std::int64_t begin_in(const Stretch& stretch, const Job* job) {
    return job == stretch.first ? stretch.begin : 0;
}
FUSEDOPT_INLINE std::int64_t end_in(const Stretch& stretch, const Job* job) {
    return job == stretch.last ? stretch.end : job->size;
}

/// A rule with its scalars in T. Both are nothing but numbers, as many as there were in double. A rule may adjust them
/// to what T can hold.
template <class Rule, class T>
FUSEDOPT_INLINE Rule with_scalars(const Scalars& scalars) {
    constexpr int count = sizeof(Rule) / sizeof(T);
    static_assert(count <= most_scalars && sizeof(Rule) % sizeof(T) == 0);
    struct Numbers {
        T values[count];
    } narrowed;
    for (int k = 0; k < count; ++k) narrowed.values[k] = static_cast<T>(scalars.values[k]);
    auto rule = __builtin_bit_cast(Rule, narrowed);
    if constexpr (requires { rule.adjust(); }) rule.adjust();
    return rule;
}

/// The factor on a variable's elements that weight decay is.
template <class T>
FUSEDOPT_INLINE T keep_of(const Step& step, const Job& job) {
    return job.decays ? static_cast<T>(step.keep) : T(1);
}

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
