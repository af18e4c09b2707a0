// What a rule does besides sweeps of a formula over elements: Adafactor's means of rows and columns, Muon's products.
// The step knows only this interface.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include <fusedopt/rules.hpp>

#include "kernel/kernel.hpp"
#include "threads.hpp"

namespace fusedopt {

struct Variable;

class Procedure {
public:
    Procedure() = default;
    Procedure(const Procedure&) = delete;
    Procedure& operator=(const Procedure&) = delete;
    virtual ~Procedure() = default;

    /// Before anything is written. What it throws leaves everything as it was. `steps` has one for each branch.
    virtual void evaluate(std::span<const kernel::Job>, std::span<const kernel::Step>) {}

    /// After that and before the sweep over the variables whose branch has a kernel.
    virtual void commit(std::span<kernel::Job>, std::span<const kernel::Step>) {}

    /// The threads of the sweep over `elements` elements that follows.
    virtual int sweep_threads(std::int64_t elements) const { return threads_for(elements); }

    /// Writes a variable's derived slot.
    virtual void derive(std::size_t, const kernel::Job&, std::byte*) {}
};

template <class AnyRule>
std::unique_ptr<Procedure> make_procedure(const AnyRule&, std::span<const Variable>, std::span<const kernel::Job>) {
    return nullptr;
}
std::unique_ptr<Procedure> make_procedure(const Adafactor&, std::span<const Variable>, std::span<const kernel::Job>);
std::unique_ptr<Procedure> make_procedure(const Muon&, std::span<const Variable>, std::span<const kernel::Job>);

}  // namespace fusedopt
