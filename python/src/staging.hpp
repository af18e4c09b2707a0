// A call on its way from Python objects to the core: gradients, variables and row indices, as views.
#pragma once

#include <fusedopt/gradients.hpp>
#include <fusedopt/tensor.hpp>

#include <memory>
#include <span>
#include <string>
#include <vector>

#include "built.hpp"
#include "gil.hpp"

namespace fusedopt::python {

/// The staging area of a call, kept by its thread so that a step allocates nothing.
struct Staging {
    // The gradients: one of these, with those of the last call until they are renewed. A call is mixed if it has
    // gradients of rows, or if the last one had.
    std::vector<Tensor> dense;
    std::vector<Gradient> mixed;
    bool is_mixed = false;
    bool has_rows = false;

    std::vector<Tensor> variables;
    std::vector<py::object> held;  // what lies behind the tensors, alive until the step is done

    Gradients gradients() const { return is_mixed ? Gradients(mixed) : Gradients(dense); }
};

class BorrowedStaging {
public:
    BorrowedStaging();
    ~BorrowedStaging();
    BorrowedStaging(const BorrowedStaging&) = delete;
    BorrowedStaging& operator=(const BorrowedStaging&) = delete;
    Staging& operator*() { return *staging_; }
    Staging* operator->() { return staging_.get(); }

private:
    std::unique_ptr<Staging> staging_;
};

/// Reads the objects of a call into the staging area; warns of gradients that are None.
void stage(BorrowedStaging& staging, const Built& built, const py::tuple& gradients, const py::object& variables,
           const python::Names* names);

/// Takes a step of `core` without the GIL, with views of the gradients and of the variables that are given.
template <class Core>
bool apply(Core& core, const Current& current, const py::object& gradients, const py::object& variables) {
    Built& built = *current;
    BorrowedStaging staging;
    // What holds them could change while the GIL is released.
    const BorrowedNames names(built, PyDict_CheckExact(gradients.ptr()));
    const py::tuple held =
        names.get() ? built.by_name(py::reinterpret_borrow<py::dict>(gradients), *names.get()) : py::tuple(gradients);
    built.check_arrays();
    follow(core, built);
    stage(staging, built, held, variables, names.get());
    const Gradients views = staging->gradients();
    const Unlocked unlocked;
    if (!variables.is_none()) return core.apply(views, std::span<const Tensor>(staging->variables));
    if (!names.get() || !names.get()->are_some) return core.apply(views, built.builds());
    return core.apply(views, std::span<const std::size_t>(names.get()->indices), built.builds());
}

/// Gives rows of `core` what they have missed: all of them, those of a variable, or some of it.
template <class Core>
void catch_up(Core& core, const Current& current, const py::object& variable, const py::object& indices) {
    Built& built = *current;
    built.check_arrays();
    follow(core, built);
    if (variable.is_none()) {
        const Unlocked unlocked;
        core.catch_up();
        return;
    }
    const std::size_t place = built.place_of(variable, "catch_up");
    std::vector<py::object> held;
    Tensor rows;
    if (!indices.is_none()) {
        held.push_back(indices);
        built.read_indices(indices, rows, held, [&] { return "catch_up: " + built.describe(place) + ", indices"; });
    }
    const Tensor tensor = built.tensors()[place];
    const Unlocked unlocked;
    core.catch_up(tensor, rows);
}

}  // namespace fusedopt::python
