#include "stepping.hpp"

#include <cmath>
#include <limits>

#include "float_environment.hpp"

namespace fusedopt {

// A compiler may move arithmetic across a change of the floating-point state, but no access to a volatile variable.

double reciprocal(double scale) {
    const FloatEnvironment environment;
    const volatile double divisor = scale;
    volatile double quotient = 1.0 / divisor;
    return quotient;
}

float nearest_float(double value) {
    const FloatEnvironment environment;
    const volatile double wide = value;
    volatile float narrow = static_cast<float>(wide);
    return narrow;
}

// A norm that is not finite makes every gradient NaN, as in Keras: silence would hide a broken step.
double global_clip_factor(double norm, double limit) {
    if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
    return norm > limit ? limit / norm : 1.0;
}

// A learning rate or beta that is a function could call apply on the optimizer it serves.
JointStep::JointStep(std::span<const Share> shares) : shares_(shares) {
    for (const Share& share : shares_) share.state->require_not_stepping("apply");
    for (const Share& share : shares_) share.state->is_stepping = true;
}

JointStep::~JointStep() {
    for (const Share& share : shares_) share.state->is_stepping = false;
}

bool JointStep::prepare() {
    for (const Share& share : shares_) share.state->check(share.gradients, share.tensors);
    bool is_finite = true;
    for (const Share& share : shares_) is_finite = share.state->measure(share.scaling) && is_finite;
    return is_finite;
}

void JointStep::finish() {
    for (const Share& share : shares_) share.state->evaluate(share.scaling);
    for (const Share& share : shares_) share.state->commit();
}

}  // namespace fusedopt
