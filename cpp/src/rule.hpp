// What the step must know about a rule besides its formula: its kernel, its slots, its scalars. One file each in
// rules/.
#pragma once

#include <cstdint>
#include <vector>

#include <fusedopt/rules.hpp>

#include "kernel/kernel.hpp"

namespace fusedopt {

/// A state array each variable has. Slots of one group stand interleaved in `variables`: all of a variable's, then the
/// next variable's; a later group follows after the last variable.
struct Slot {
    const char* name;
    int group;
};

struct RuleSpec {
    kernel::RuleId kernel;
    double learning_rate;  // the default
    double weight_decay;   // the rule's own; 0: none
    std::vector<Slot> slots;
};

/// When a step's scalars are computed: `step` is the stored counter, `t` the number of the update, from 1.
struct Moment {
    double learning_rate;
    std::int64_t step;
    std::int64_t t;
};

/// Checks the hyperparameters and describes the rule.
RuleSpec specify(const SGD&);
RuleSpec specify(const RMSprop&);
RuleSpec specify(const Adam&);
RuleSpec specify(const AdamW&);

/// The kernel's scalars, computed in double. Calls hyperparameters that are functions, once each.
void compute_scalars(const SGD&, const Moment&, double* scalars);
void compute_scalars(const RMSprop&, const Moment&, double* scalars);
void compute_scalars(const Adam&, const Moment&, double* scalars);
void compute_scalars(const AdamW&, const Moment&, double* scalars);

}  // namespace fusedopt
