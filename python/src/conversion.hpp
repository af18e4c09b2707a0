// Objects on their way to arrays: which protocol gives one, what is refused, and what the caller is told to do.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "arrays.hpp"

namespace fusedopt::python {

/// True if the object is an array or gives one by a protocol.
bool offers_memory(py::handle object);

/// The array behind a variable: itself, or one that shares its memory. TypeError if it cannot share its memory.
py::array variable_array(py::handle object, const std::string& who);

/// The array behind a gradient: itself, or whatever its protocol gives. TypeError for an array with a mask.
py::array gradient_array(py::handle object, const std::string& who);

/// The array behind row indices: itself, or whatever its protocol gives. TypeError for an array with a mask.
py::array index_array(py::handle object, const std::string& who);

/// The array behind values that are to be copied: a gradient's, or whatever NumPy makes of lists and numbers.
py::array value_array(py::handle object, const std::string& who);

/// What lends an array or a memoryview its memory, if that is neither; None if nothing does.
py::object owner_of(py::object object);

/// Whether an object still stands for this memory, as far as it can tell without making an array. False if unsure.
bool is_known_at(py::handle object, const void* data, const py::tuple& shape, py::handle dtype);

}  // namespace fusedopt::python
