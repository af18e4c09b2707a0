// The phases of a joint step, and the few numbers that a step takes from scales and norms.
#include "engine/stepping.hpp"

#include <cmath>
#include <limits>

#include "engine/ranks.hpp"
#include "runtime/float_environment.hpp"

namespace fusedopt {

double reciprocal(double scale) {
    return compute_in(Subnormals::flushed, scale, [](double x) { return 1.0 / x; });
}

float nearest_float(double value) {
    const auto nearest = [](double x) { return static_cast<double>(static_cast<float>(x)); };
    return static_cast<float>(compute_in(Subnormals::flushed, value, nearest));
}

// An infinite norm zeroes what is finite; a NaN stays NaN.
double clip_factor(double norm, double limit) {
    return norm <= limit ? 1.0 : limit / norm;
}

// A norm that is not finite makes every gradient NaN, as in Keras. A broken step must not be hidden.
double global_clip_factor(double norm, double limit) {
    if (!std::isfinite(norm)) return std::numeric_limits<double>::quiet_NaN();
    return norm > limit ? limit / norm : 1.0;
}

// A learning rate or beta that is a function could call apply on the optimizer it serves.
JointStep::JointStep(std::span<const Participant> participants, Ranks* ranks)
    : participants_(participants), ranks_(ranks) {
    for (const Participant& participant : participants_) participant.state->require_not_stepping("apply");
    for (const Participant& participant : participants_) participant.state->require_training_weights("apply");
    for (const Participant& participant : participants_) participant.state->is_stepping = true;
}

JointStep::~JointStep() {
    for (const Participant& participant : participants_) participant.state->is_stepping = false;
}

bool JointStep::prepare() {
    for (const Participant& participant : participants_)
        participant.state->check(participant.gradients, participant.choice);
    const auto measure = [this] {
        bool is_finite = true;
        for (const Participant& participant : participants_)
            is_finite = participant.state->measure(participant.scaling) && is_finite;
        return is_finite;
    };
    return ranks_ ? ranks_->measure(participants_, measure) : measure();
}

void JointStep::finish() {
    const auto evaluate = [this] {
        for (const Participant& participant : participants_) participant.state->evaluate(participant.scaling);
    };
    if (ranks_) {
        ranks_->evaluate(participants_, evaluate);
        ranks_->write(participants_);
        return;
    }
    evaluate();
    for (const Participant& participant : participants_) participant.state->commit();
}

}  // namespace fusedopt
