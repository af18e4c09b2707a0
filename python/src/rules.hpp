// Rules and options as Python objects.
#pragma once

#include <fusedopt/optimizer.hpp>

#include <pybind11/pybind11.h>

#include "rules/any_field.hpp"

namespace fusedopt::python {

namespace py = pybind11;

/// A rule as one Python object; pybind11 would take the variant apart.
struct PyRule {
    Rule rule;
};

/// A number, or a function of the step counter that is called with the GIL. TypeError, naming it, for anything else.
Hyperparameter hyperparameter(const py::object& value, const char* name);

/// Gives a hyperparameter this value. TypeError, naming it, for one of another type.
void set_field(const AnyField& field, const py::object& value);

}  // namespace fusedopt::python
