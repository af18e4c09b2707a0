// NumPy arrays, and whatever else lies in CPU memory, as views that the core understands. Nothing is copied here.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/tensor.hpp>

#include "exchange.hpp"

namespace fusedopt::python {

namespace py = pybind11;

/// Finds the element types of arrays, of those that share a descriptor once.
class KnownDTypes {
public:
    /// That of an array, or none if the library does not know it.
    std::optional<DType> of(py::handle array) {
        PyObject* descriptor = py::detail::array_proxy(array.ptr())->descr;
        if (descriptor != last_.ptr()) {
            dtype_ = find(descriptor);
            last_ = py::reinterpret_borrow<py::object>(descriptor);
        }
        return dtype_;
    }

private:
    static std::optional<DType> find(PyObject* descriptor);

    py::object last_;  // kept, so that no other can come to lie in its place
    std::optional<DType> dtype_;
};

/// int32 or int64, if the array has elements of that type.
std::optional<DType> index_dtype_of(py::handle array);

/// The same for what occurs in state: all types that the library knows.
std::optional<DType> state_dtype_of(py::handle array);

/// A view of an array. TypeError, naming `who`, if its element type is not known.
Tensor view(const py::array& array, const std::string& who, Elements elements = Elements::numbers);

/// The same for a value that state is to have.
Tensor state_view(const py::array& array, const std::string& who);

/// Makes `tensor`, left by an earlier call, a view of an array: in the steady state only the memory is another.
void renew(Tensor& tensor, py::handle array, DType dtype);

[[noreturn]] void refuse_dtype(py::handle array, const std::string& who, Elements elements = Elements::numbers);

/// True for numpy.ndarray itself. Of anything else, a subclass too, it must be asked what its memory leaves out.
inline bool is_plain_array(py::handle object) {
    return reinterpret_cast<PyObject*>(Py_TYPE(object.ptr())) ==
           reinterpret_cast<PyObject*>(py::detail::npy_api::get().PyArray_Type_);
}

/// An array over the memory of a tensor. That of bfloat16 has the bits as elements, and says so.
py::array array_over(const Exchange::Memory& memory, py::handle tensor);

/// Advice to give another array, as it is to be said of these elements.
std::string advice_for(Elements elements, const std::string& advice);

/// A shape as Python writes it.
std::string shape_text(std::span<const std::int64_t> shape);

/// An array over the core's memory that keeps `owner` alive.
py::array live_view(const Tensor& tensor, py::handle owner);

}  // namespace fusedopt::python
