// Steps several optimizers as one. All finish a phase before any begins the next, so either all write or none does.
#pragma once

#include <span>

#include "engine/state.hpp"

namespace fusedopt {

/// One optimizer's part in a step.
struct Participant {
    Optimizer::State* state;
    Gradients gradients;
    Optimizer::Choice choice;
    Scaling scaling;

    double factor() const { return state->averaging_factor(scaling); }
};

/// 1 / scale, whatever the caller's rounding mode.
double reciprocal(double scale);

/// The nearest float32, whatever the caller's rounding mode.
float nearest_float(double value);

/// What a clipnorm multiplies a gradient by.
double clip_factor(double norm, double limit);

/// What a global_clipnorm multiplies gradients by.
double global_clip_factor(double norm, double limit);

/// A step of several optimizers, on all ranks if there are some. The caller holds every lock.
class JointStep {
public:
    explicit JointStep(std::span<const Participant> participants, Ranks* ranks = nullptr);
    ~JointStep();
    JointStep(const JointStep&) = delete;
    JointStep& operator=(const JointStep&) = delete;

    /// Checks the call, then reads the gradients if a norm or a check needs it. False: one is not finite, and the step
    /// is to be skipped.
    bool prepare();

    /// Evaluates what may still refuse the step, then writes.
    void finish();

private:
    std::span<const Participant> participants_;
    Ranks* ranks_;
};

}  // namespace fusedopt
