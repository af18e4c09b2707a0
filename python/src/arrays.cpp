#include "arrays.hpp"

#include <pybind11/gil_safe_call_once.h>

#include <array>
#include <atomic>
#include <bit>

#include "engine/given.hpp"
#include "gil.hpp"

namespace fusedopt::python {
namespace {

// NumPy's numbers of element types, fixed by its C API. Those of C's int, long and long long are distinct.
constexpr int int_number = 5, long_number = 7, long_long_number = 9;
constexpr int uint8_number = 2, uint16_number = 4, float32_number = 11, float64_number = 12, float16_number = 23,
              first_user_number = 256;

// ml_dtypes registers bfloat16 at run time, so its number is found out once, by name.
std::atomic<int> bfloat16_number{-1};

// Arrays of this element type stand for bfloat16 from memory of other libraries. NumPy keeps what is said of a type,
// and compares types without it.
py::dict meaning() {
    py::dict said;
    said["fusedopt"] = "bfloat16";
    return said;
}

const py::dtype& bfloat16_bits() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::dtype> storage;
    const auto make = [] {
        return py::dtype(py::module_::import("numpy").attr("dtype")("uint16", py::arg("metadata") = meaning()));
    };
    return storage.call_once_and_store_result(make).get_stored();
}

bool is_bfloat16(const py::dtype& dtype, int number) {
    if (number == bfloat16_number.load(std::memory_order_relaxed)) return true;
    if (number == uint16_number) return py::object(dtype.attr("metadata")).equal(meaning());
    if (number < first_user_number || dtype.itemsize() != 2 || dtype.attr("name").cast<std::string>() != "bfloat16") {
        return false;
    }
    bfloat16_number.store(number, std::memory_order_relaxed);
    return true;
}

bool is_native(PyObject* descriptor) {
    // '<' or '>' may stand for the native order as well, for example in what ctypes or newbyteorder give.
    constexpr char native = std::endian::native == std::endian::little ? '<' : '>';
    const char order = py::detail::array_descriptor_proxy(descriptor)->byteorder;
    return order == '=' || order == '|' || order == native;
}

/// The dtype of arrays with these elements.
py::dtype dtype_for(DType dtype) {
    return dtype == DType::bfloat16 ? bfloat16_bits() : py::dtype(std::string(to_string(dtype)));
}

std::string advice_on_indices(const py::dtype& dtype) {
    const char kind = dtype.kind();
    if (kind == 'b') return "give numpy.flatnonzero of it";
    if (kind == 'i' && dtype.itemsize() == 8) return "convert them with .astype('int64')";
    return kind == 'i' || kind == 'u' || kind == 'f' || kind == 'O' ? "convert them with .astype(numpy.int64)"
                                                                    : "give an array of integers";
}

std::string advice_on_dtype(const py::dtype& dtype) {
    const char kind = dtype.kind();
    if (dtype.has_fields()) {
        const auto first = py::sequence(dtype.attr("names"))[0];
        return "give one of its fields, such as [" + py::repr(first).cast<std::string>() + "]";
    }
    if (kind == 'c') return "give its .real or .imag part";
    if (kind == 'f' && dtype.itemsize() <= 8) {
        return "convert it with .astype('" + dtype.attr("name").cast<std::string>() + "')";
    }
    return kind == 'V' || kind == 'm' || kind == 'M' ? "give an array of numbers"
                                                     : "convert it with .astype(numpy.float32)";
}

Tensor view_as(const py::array& array, DType dtype) {
    const auto rank = static_cast<std::size_t>(array.ndim());
    std::array<std::int64_t, most_dimensions> shape;
    std::array<std::int64_t, most_dimensions> strides;
    for (std::size_t d = 0; d < rank; ++d) {
        shape[d] = array.shape()[d];
        strides[d] = array.strides()[d];
    }
    const std::span<const std::int64_t> extents(shape.data(), rank), steps(strides.data(), rank);
    return array.writeable() ? Tensor(const_cast<void*>(array.data()), dtype, extents, steps)
                             : Tensor(array.data(), dtype, extents, steps);
}

}  // namespace

std::optional<DType> KnownDTypes::find(PyObject* object) {
    if (!is_native(object)) return std::nullopt;
    const int number = py::detail::array_descriptor_proxy(object)->type_num;
    if (number == float32_number) return DType::float32;
    if (number == float64_number) return DType::float64;
    if (number == float16_number) return DType::float16;
    return is_bfloat16(py::reinterpret_borrow<py::dtype>(object), number) ? std::optional(DType::bfloat16)
                                                                          : std::nullopt;
}

std::optional<DType> state_dtype_of(py::handle array) {
    PyObject* const descriptor = py::detail::array_proxy(array.ptr())->descr;
    if (const std::optional<DType> dtype = KnownDTypes().of(array)) return dtype;
    if (!is_native(descriptor)) return std::nullopt;
    switch (py::detail::array_descriptor_proxy(descriptor)->type_num) {
        case uint8_number:
            return DType::uint8;
        case uint16_number:
            return DType::uint16;
        default:
            return index_dtype_of(array);
    }
}

std::optional<DType> index_dtype_of(py::handle array) {
    PyObject* const descriptor = py::detail::array_proxy(array.ptr())->descr;
    if (!is_native(descriptor)) return std::nullopt;
    const auto of_size = [](std::size_t size) { return size == 8 ? DType::int64 : DType::int32; };
    switch (py::detail::array_descriptor_proxy(descriptor)->type_num) {
        case int_number:
            return of_size(sizeof(int));
        case long_number:
            return of_size(sizeof(long));
        case long_long_number:
            return of_size(sizeof(long long));
        default:
            return std::nullopt;
    }
}

void refuse_dtype(py::handle array, const std::string& who, Elements elements) {
    const py::dtype dtype = array.attr("dtype");
    throw py::type_error(
        who + ": expected " + words_of(elements).types + " in native byte order, found dtype " +
        py::str(dtype).cast<std::string>() + "; " +
        advice_for(elements, elements == Elements::indices ? advice_on_indices(dtype) : advice_on_dtype(dtype)));
}

void renew(Tensor& tensor, py::handle array, DType dtype) {
    const auto* fields = py::detail::array_proxy(array.ptr());
    const auto rank = static_cast<std::size_t>(fields->nd);
    bool is_same = tensor && tensor.dtype() == dtype && tensor.rank() == rank;
    if (is_same) {
        const std::int64_t *shape = tensor.shape().data(), *strides = tensor.strides().data();
        for (std::size_t d = 0; d < rank; ++d) {
            is_same = is_same && shape[d] == fields->dimensions[d] && strides[d] == fields->strides[d];
        }
    }
    if (is_same) {
        tensor.move_to(fields->data);
    } else {
        tensor = view_as(py::reinterpret_borrow<py::array>(array), dtype);
    }
}

Tensor state_view(const py::array& array, const std::string& who) {
    const std::optional<DType> dtype = state_dtype_of(array);
    if (!dtype) refuse_dtype(array, who);
    return view_as(array, *dtype);
}

Tensor view(const py::array& array, const std::string& who, Elements elements) {
    const std::optional<DType> dtype = KnownDTypes().of(array);
    if (!dtype) refuse_dtype(array, who, elements);
    return view_as(array, *dtype);
}

// Shares the memory of a tensor and keeps it, even if the tensor is given other memory.
py::object keeper_of(py::handle tensor) {
    return py::hasattr(tensor, "detach") ? call(tensor.attr("detach")) : py::reinterpret_borrow<py::object>(tensor);
}

py::array array_over(const Exchange::Memory& memory, py::handle tensor) {
    const py::object owner = keeper_of(tensor);
    const std::vector<py::ssize_t> shape(memory.shape.begin(), memory.shape.end());
    std::vector<py::ssize_t> strides(memory.strides, memory.strides + shape.size());
    for (py::ssize_t& stride : strides) stride *= static_cast<py::ssize_t>(item_size(memory.dtype));
    return py::array(dtype_for(memory.dtype), shape, strides, memory.data, owner);
}

std::string advice_for(Elements elements, const std::string& advice) {
    return elements == Elements::variable ? for_a_variable(advice) : advice;
}

std::string shape_text(std::span<const std::int64_t> shape) {
    py::tuple sizes(shape.size());
    for (std::size_t d = 0; d < shape.size(); ++d) sizes[d] = py::int_(shape[d]);
    return py::repr(sizes).cast<std::string>();
}

py::array live_view(const Tensor& tensor, py::handle owner) {
    const std::vector<py::ssize_t> shape(tensor.shape().begin(), tensor.shape().end());
    const std::vector<py::ssize_t> strides(tensor.strides().begin(), tensor.strides().end());
    return py::array(dtype_for(tensor.dtype()), shape, strides, tensor.data(), owner);
}

}  // namespace fusedopt::python
