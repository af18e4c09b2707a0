#include "arrays.hpp"

#include <pybind11/gil_safe_call_once.h>

#include <array>
#include <atomic>
#include <bit>

#include "gil.hpp"

namespace fusedopt::python {
namespace {

// NumPy's numbers of element types, fixed by its C API.
constexpr int float32_number = 11, float64_number = 12, float16_number = 23, first_user_number = 256;

// ml_dtypes registers bfloat16 at run time, so its number is found out once, by name.
std::atomic<int> bfloat16_number{-1};

// What every gradient that is no array is asked by; made once.
struct Protocols {
    py::str array_interface;
    py::str array;
    py::object asarray;
};

const Protocols& protocols() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Protocols> storage;
    const auto make = [] {
        const auto interned = [](const char* name) {
            PyObject* text = PyUnicode_InternFromString(name);
            if (!text) throw py::error_already_set();
            return py::reinterpret_steal<py::str>(text);
        };
        return Protocols{interned("__array_interface__"), interned("__array__"),
                         py::module_::import("numpy").attr("asarray")};
    };
    return storage.call_once_and_store_result(make).get_stored();
}

bool offers_memory(py::handle object) {
    return py::hasattr(object, protocols().array_interface) || py::hasattr(object, protocols().array) ||
           PyObject_CheckBuffer(object.ptr()) != 0;
}

bool is_bfloat16(const py::dtype& dtype, int number) {
    if (number == bfloat16_number.load(std::memory_order_relaxed)) return true;
    if (number < first_user_number || dtype.itemsize() != 2 || dtype.attr("name").cast<std::string>() != "bfloat16") {
        return false;
    }
    bfloat16_number.store(number, std::memory_order_relaxed);
    return true;
}

std::string type_name(py::handle object) {
    return py::type::handle_of(object).attr("__name__").cast<std::string>();
}

py::array as_array(py::handle object, const std::string& who) {
    if (!offers_memory(object)) {
        throw py::type_error(who + ": expected a numpy.ndarray or an object that shares CPU memory (buffer protocol, " +
                             "__array_interface__ or __array__), found " + type_name(object));
    }
    try {
        return call(protocols().asarray, object).cast<py::array>();
    } catch (py::error_already_set& error) {
        py::raise_from(
            error, PyExc_TypeError,
            (who + ": expected an array in CPU memory, but this " + type_name(object) + " cannot give one").c_str());
        throw py::error_already_set();
    }
}

Tensor view(const py::array& array, DType dtype) {
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
    const auto* descriptor = py::detail::array_descriptor_proxy(object);
    // '<' or '>' may stand for the native order as well, for example in what ctypes or newbyteorder give.
    constexpr char native = std::endian::native == std::endian::little ? '<' : '>';
    const char order = descriptor->byteorder;
    if (order != '=' && order != '|' && order != native) return std::nullopt;
    const int number = descriptor->type_num;
    if (number == float32_number) return DType::float32;
    if (number == float64_number) return DType::float64;
    if (number == float16_number) return DType::float16;
    return is_bfloat16(py::reinterpret_borrow<py::dtype>(object), number) ? std::optional(DType::bfloat16)
                                                                          : std::nullopt;
}

void refuse_dtype(py::handle array, const std::string& who) {
    throw py::type_error(who + ": expected float16, bfloat16, float32 or float64 in native byte order, found dtype " +
                         py::str(array.attr("dtype")).cast<std::string>());
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
        tensor = view(py::reinterpret_borrow<py::array>(array), dtype);
    }
}

Tensor view(const py::array& array, const std::string& who) {
    const std::optional<DType> dtype = KnownDTypes().of(array);
    if (!dtype) refuse_dtype(array, who);
    return view(array, *dtype);
}

py::array gradient_array(py::handle object, const std::string& who) {
    return py::isinstance<py::array>(object) ? py::reinterpret_borrow<py::array>(object) : as_array(object, who);
}

py::array variable_array(py::handle object, const std::string& who) {
    if (py::isinstance<py::array>(object)) return py::reinterpret_borrow<py::array>(object);
    // Two arrays of shared memory have one address; two copies, both alive, have two.
    py::array first = as_array(object, who);
    const py::array second = as_array(object, who);
    if (first.data() != second.data()) {
        throw py::type_error(who + ": expected an object that shares its memory, but this " + type_name(object) +
                             " gives a new copy each time");
    }
    return first;
}

py::array live_view(const Tensor& tensor, py::handle owner) {
    const char* format = tensor.dtype() == DType::int64     ? "int64"
                         : tensor.dtype() == DType::float64 ? "float64"
                                                            : "float32";
    const std::vector<py::ssize_t> shape(tensor.shape().begin(), tensor.shape().end());
    const std::vector<py::ssize_t> strides(tensor.strides().begin(), tensor.strides().end());
    return py::array(py::dtype(std::string(format)), shape, strides, tensor.data(), owner);
}

}  // namespace fusedopt::python
