#include "arrays.hpp"

#include <pybind11/gil_safe_call_once.h>

#include <array>
#include <atomic>
#include <bit>

#include "gil.hpp"
#include "interned.hpp"

namespace fusedopt::python {
namespace {

// NumPy's numbers of element types, fixed by its C API.
constexpr int uint16_number = 4, float32_number = 11, float64_number = 12, float16_number = 23, first_user_number = 256;

// ml_dtypes registers bfloat16 at run time, so its number is found out once, by name.
std::atomic<int> bfloat16_number{-1};

// What every object that is no array is asked by; made once.
struct Protocols {
    py::str array_interface;
    py::str array;
    py::str mask;
    py::str data_ptr;
    py::str shape;
    py::str is_contiguous;
    py::object asanyarray;
    py::dtype bfloat16;  // the bits of bfloat16, for which NumPy has no type of its own
};

// Arrays of this element type stand for bfloat16 from memory of other libraries. NumPy keeps what is said of a type,
// and compares types without it.
py::dict meaning() {
    py::dict said;
    said["fusedopt"] = "bfloat16";
    return said;
}

const Protocols& protocols() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Protocols> storage;
    const auto make = [] {
        return Protocols{interned("__array_interface__"),
                         interned("__array__"),
                         interned("mask"),
                         interned("data_ptr"),
                         interned("shape"),
                         interned("is_contiguous"),
                         py::module_::import("numpy").attr("asanyarray"),
                         py::module_::import("numpy").attr("dtype")("uint16", py::arg("metadata") = meaning())};
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

std::string type_name(py::handle object) {
    return py::type::handle_of(object).attr("__name__").cast<std::string>();
}

// Elements under a mask are no values to update or to update by. An array with no element masked is refused as well,
// because it must not depend on the data whether a call works.
void refuse_mask(py::handle object, const std::string& who) {
    // To see that there is no such attribute is far cheaper than to let the look-up fail.
    const auto attribute = [&](const py::str& name) {
        return py::hasattr(object, name) ? py::getattr(object, name, py::none()) : py::object(py::none());
    };
    py::object mask = attribute(protocols().mask);
    if (mask.is_none() && !py::isinstance<py::array>(object)) {
        const py::object interface = attribute(protocols().array_interface);
        if (py::isinstance<py::dict>(interface)) mask = interface.attr("get")(protocols().mask);
    }
    if (mask.is_none() || PyCallable_Check(mask.ptr())) return;  // pandas has a method of this name
    throw py::type_error(who + ": expected an array without a mask, found " + type_name(object) +
                         "; give .data to use every element, or .filled(0) for a copy with zeros under the mask");
}

const char* advice(py::handle object) {
    if (PyDict_Check(object.ptr())) return "give one array here, in a flat dict if there are names";
    if (py::hasattr(object, "toarray")) return "give its .toarray(), which is dense";
    if (py::hasattr(object, "__cuda_array_interface__")) return "copy it to the CPU";
    if (py::hasattr(object, "__dlpack__")) return "give numpy.from_dlpack of it, from the CPU";
    if (PyUnicode_Check(object.ptr())) return "give the array itself";
    if (PyIter_Check(object.ptr())) return "collect its items into a numpy.ndarray";
    if (PySequence_Check(object.ptr()) || PyNumber_Check(object.ptr())) {
        return "give numpy.array of it, with dtype=numpy.float32";
    }
    return "give a numpy.ndarray";
}

// Keeps what another library says of the cause, which mostly says what to do as well.
[[noreturn]] void refuse_conversion(py::error_already_set& error, py::handle object, const std::string& who) {
    if (!error.matches(PyExc_Exception) || error.matches(PyExc_MemoryError)) throw;
    std::string cause = py::str(error.value()).cast<std::string>();
    while (!cause.empty() && (cause.back() == '.' || cause.back() == '\n')) cause.pop_back();
    const std::string message = who + ": expected an array in CPU memory, found " + type_name(object) +
                                " that cannot give one (" + type_name(error.value()) +
                                (cause.empty() ? "" : ": " + cause) + "); convert it to a numpy.ndarray yourself";
    py::raise_from(error, PyExc_TypeError, message.c_str());
    throw py::error_already_set();
}

py::array converted(py::handle object, const std::string& who) {
    refuse_mask(object, who);
    py::object array;
    try {
        array = call(protocols().asanyarray, object);
    } catch (py::error_already_set& error) {
        refuse_conversion(error, object, who);
    }
    if (!is_plain_array(array)) refuse_mask(array, who);
    return array;
}

py::array as_array(py::handle object, const std::string& who) {
    if (!offers_memory(object)) {
        throw py::type_error(who + ": expected a numpy.ndarray or an object that shares CPU memory (buffer protocol, " +
                             "__array_interface__ or __array__), found " + type_name(object) + "; " + advice(object));
    }
    return converted(object, who);
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
    const py::dtype dtype = array.attr("dtype");
    throw py::type_error(who + ": expected float16, bfloat16, float32 or float64 in native byte order, found dtype " +
                         py::str(dtype).cast<std::string>() + "; " + advice_on_dtype(dtype));
}

bool offers_memory(py::handle object) {
    return py::hasattr(object, protocols().array_interface) || py::hasattr(object, protocols().array) ||
           PyObject_CheckBuffer(object.ptr()) != 0;
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

Tensor view(const py::array& array, const std::string& who) {
    const std::optional<DType> dtype = KnownDTypes().of(array);
    if (!dtype) refuse_dtype(array, who);
    return view_as(array, *dtype);
}

py::array array_over(const Exchange::Memory& memory, py::handle owner) {
    const std::vector<py::ssize_t> shape(memory.shape.begin(), memory.shape.end());
    std::vector<py::ssize_t> strides(memory.strides, memory.strides + shape.size());
    for (py::ssize_t& stride : strides) stride *= static_cast<py::ssize_t>(item_size(memory.dtype));
    const py::dtype dtype =
        memory.dtype == DType::bfloat16 ? protocols().bfloat16 : py::dtype(std::string(to_string(memory.dtype)));
    return py::array(dtype, shape, strides, memory.data, owner);
}

py::array gradient_array(py::handle object, const std::string& who) {
    if (is_plain_array(object)) return py::reinterpret_borrow<py::array>(object);
    const auto memory = Exchange().values(object);
    return memory ? array_over(*memory, object) : as_array(object, who);
}

py::array value_array(py::handle object, const std::string& who) {
    return is_plain_array(object) || offers_memory(object) ? gradient_array(object, who) : converted(object, who);
}

py::array variable_array(py::handle object, const std::string& who) {
    if (py::isinstance<py::array>(object) || Exchange().values(object)) return gradient_array(object, who);
    // Two arrays of shared memory have one address; two copies, both alive, have two.
    py::array first = as_array(object, who);
    const py::array second = as_array(object, who);
    if (first.data() != second.data()) {
        throw py::type_error(who + ": expected an object that shares its memory, but this " + type_name(object) +
                             " gives a new copy each time; give a numpy.ndarray");
    }
    return first;
}

bool is_known_at(py::handle object, const void* data, const py::tuple& shape) {
    const Protocols& names = protocols();
    const auto ask = [&](const py::str& name) {
        return py::reinterpret_steal<py::object>(
            outlasting([&] { return PyObject_CallMethodNoArgs(object.ptr(), name.ptr()); }));
    };
    if (const py::object address = ask(names.data_ptr); address && PyLong_Check(address.ptr())) {
        const py::object now = py::reinterpret_steal<py::object>(PyObject_GetAttr(object.ptr(), names.shape.ptr()));
        const py::object contiguous = now ? ask(names.is_contiguous) : py::object();
        if (contiguous && PyLong_AsVoidPtr(address.ptr()) == data && contiguous.ptr() == Py_True &&
            PyObject_RichCompareBool(now.ptr(), shape.ptr(), Py_EQ) == 1) {
            return true;
        }
    }
    PyErr_Clear();
    return false;
}

py::array live_view(const Tensor& tensor, py::handle owner) {
    const char* format = tensor.dtype() == DType::int64      ? "int64"
                         : tensor.dtype() == DType::float64  ? "float64"
                         : tensor.dtype() == DType::bfloat16 ? "uint16"
                                                             : "float32";
    const std::vector<py::ssize_t> shape(tensor.shape().begin(), tensor.shape().end());
    const std::vector<py::ssize_t> strides(tensor.strides().begin(), tensor.strides().end());
    return py::array(py::dtype(std::string(format)), shape, strides, tensor.data(), owner);
}

}  // namespace fusedopt::python
