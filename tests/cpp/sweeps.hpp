// Kernels, called as a step calls them: what is the same in a step for all variables, a variable's job, a rule's sweep.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>

#include "kernel/kernel.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace kernel = fusedopt::kernel;

/// Without scaling, clipping and decay. The rule's scalars are zero.
inline kernel::Step plain_step(std::uint64_t seed) {
    kernel::Step step = {};
    step.keep = step.unscale = step.scale = 1.0;
    step.clipvalue = HUGE_VAL;
    step.seed = seed;
    return step;
}

/// With scaling and decay, for the formula of any rule.
inline kernel::Step step_of_any_rule(std::uint64_t seed) {
    kernel::Step step = plain_step(seed);
    std::fill(std::begin(step.scalars.values), std::end(step.scalars.values), 0.375);
    step.keep = 0.75;
    step.scale = 0.5;
    step.ema_momentum = 0.625;
    return step;
}

/// The update of a float32 variable without slots, from its gradient of float32.
inline kernel::Job job_of(std::int64_t size, void* weight, const void* gradient, std::uint64_t first_tile) {
    kernel::Job job = {};
    job.size = size;
    job.weight = weight;
    job.gradient = gradient;
    job.storage_element = job.gradient_element = kernel::Element::float32;
    job.clip_factor = job.ratio = 1.0;
    job.decays = true;
    job.work = kernel::Work::update;
    job.first_partial = first_tile;
    return job;
}

/// All elements, or first those from the cut on and then the others.
inline void sweep(kernel::RuleId rule, const kernel::Step& step, const kernel::Job& job, std::int64_t cut = 0) {
    const fusedopt::FloatEnvironment environment;
    const auto update = fusedopt::current_kernels().update[static_cast<int>(rule)][0];
    update(step, {&job, &job, cut, job.size});
    if (cut > 0) update(step, {&job, &job, 0, cut});
}
