// NumPy arrays, and whatever else lies in CPU memory, as views the core understands. Nothing is copied here.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <optional>
#include <string>
#include <vector>

#include <fusedopt/tensor.hpp>

namespace fusedopt::python {

namespace py = pybind11;

/// The element type of an array, or none where the library does not know it.
std::optional<DType> known_dtype(const py::array& array);

/// A view of an array whose element type is known.
Tensor view(const py::array& array, DType dtype);

/// The same for any array. TypeError, naming `who`, where the element type is not known.
Tensor view(const py::array& array, const std::string& who);

/// Makes `tensor`, left by an earlier call, a view of a gradient: in the steady state only the memory is another. False
/// where the element type is not known.
bool renew(Tensor& tensor, const py::array& array);

[[noreturn]] void refuse_dtype(const py::array& array, const std::string& who);

/// The array behind a variable: itself, or one that shares its memory. TypeError where sharing is impossible.
py::array variable_array(py::handle object, const std::string& who);

/// The array behind a gradient: itself, or whatever its protocol gives.
py::array gradient_array(py::handle object, const std::string& who);

/// An array over the core's memory that keeps `owner` alive.
py::array live_view(const Tensor& tensor, py::handle owner);

}  // namespace fusedopt::python
