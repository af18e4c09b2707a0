// Rules and options as Python objects.
#pragma once

#include <fusedopt/optimizer.hpp>

#include <pybind11/pybind11.h>

namespace fusedopt::python {

namespace py = pybind11;

/// A rule as one Python object; pybind11 would take the variant apart.
struct PyRule {
    Rule rule;
};

/// A number, or a function of the step counter that is called with the GIL. TypeError, naming it, for anything else.
Hyperparameter hyperparameter(const py::object& value, const char* name);

}  // namespace fusedopt::python
