// Objects of other libraries that NumPy cannot read: memory that is offered by `__dlpack__` alone, and tensors whose
// values do not simply lie in memory, with what to do about them.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>

#include "exchange.hpp"

namespace fusedopt::python {

namespace py = pybind11;

/// True if an object gives its memory by `__dlpack__`, and its values are what lies there.
bool offers_dlpack(py::handle object);

/// The array that `__dlpack__` gives; read-only if it may not be written, or if that cannot be told. TypeError, naming
/// `who`, for another device or element type.
py::array dlpack_array(py::handle object, const std::string& who, Elements elements);

/// What an object is, if it cannot give an array for a reason that is known, and what to do: "a Tensor of layout
/// torch.sparse_coo; give its .to_dense()". Otherwise empty.
std::string explained(py::handle object);

}  // namespace fusedopt::python
