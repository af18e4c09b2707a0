// Gradients of rows: what of an object holds their values, and what says which rows they are.
#pragma once

#include <pybind11/pybind11.h>

#include <optional>
#include <string>

namespace fusedopt::python {

namespace py = pybind11;

/// The parts of a gradient of rows, any objects that give arrays.
struct Rows {
    py::object values;
    py::object indices;
    py::object shape;  // of the variable, as the object says it; or None
};

/// The package's class RowGradient.
py::handle row_gradient_type();

/// The parts of one.
Rows parts_of(py::handle row_gradient);

/// Those of a sparse gradient of another library, or none if the object is no such gradient. TypeError, naming `who`,
/// if it is sparse in another way.
std::optional<Rows> sparse_parts_of(py::handle object, const std::string& who);

/// Those of either kind.
std::optional<Rows> rows_of(py::handle object, const std::string& who);

}  // namespace fusedopt::python
