// What a rule does besides one sweep of a formula over elements: LAMB's norms, Adafactor's means, Muon's products.
// The step knows only this interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "engine/plan.hpp"
#include "kernel/kernel.hpp"

namespace fusedopt {

class Procedure {
public:
    Procedure() = default;
    Procedure(const Procedure&) = delete;
    Procedure& operator=(const Procedure&) = delete;
    virtual ~Procedure() = default;

    /// Runs before anything is written. If it throws, everything stays as it was. `steps` has one entry per branch.
    virtual void evaluate(std::span<const kernel::Job>, std::span<const kernel::Step>) {}

    /// Runs after that, and before the sweep over the variables whose branch has a kernel. The plan holds all variables
    /// that are updated.
    virtual void commit(std::span<kernel::Job>, std::span<const kernel::Step>, const SweepPlan&) {}

    /// The threads of the sweep over `elements` elements that follows.
    virtual int sweep_threads(std::int64_t elements) const { return threads_for(elements); }

    /// Writes a variable's derived slot.
    virtual void derive(std::size_t, const kernel::Job&, std::byte*) {}
};

}  // namespace fusedopt
