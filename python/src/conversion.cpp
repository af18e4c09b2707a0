#include "conversion.hpp"

#include <pybind11/gil_safe_call_once.h>

#include <optional>

#include "foreign.hpp"
#include "gil.hpp"
#include "interned.hpp"

namespace fusedopt::python {
namespace {

// What every object that is no array is asked by; made once.
struct Protocols {
    py::str array_interface;
    py::str array;
    py::str mask;
    py::str data_ptr;
    py::str shape;
    py::str is_contiguous;
    py::str dtype;
    py::str requires_grad;
    py::str detach;
    py::object asanyarray;
};

const Protocols& protocols() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Protocols> storage;
    const auto make = [] {
        return Protocols{interned("__array_interface__"),
                         interned("__array__"),
                         interned("mask"),
                         interned("data_ptr"),
                         interned("shape"),
                         interned("is_contiguous"),
                         interned("dtype"),
                         interned("requires_grad"),
                         interned("detach"),
                         py::module_::import("numpy").attr("asanyarray")};
    };
    return storage.call_once_and_store_result(make).get_stored();
}

std::string type_name(py::handle object) {
    return py::type::handle_of(object).attr("__name__").cast<std::string>();
}

// Elements under a mask are no values to update or to update by. An array with no element masked is refused as well,
// because it must not depend on the data whether a call works.
void refuse_mask(py::handle object, const std::string& who, Elements elements) {
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
    throw py::type_error(
        who + ": expected an array without a mask, found " + type_name(object) +
        (elements == Elements::indices
             ? "; give .data to use every index, or .compressed() with the values of these indices only"
             : "; " + advice_for(elements,
                                 "give .data to use every element, or .filled(0) for a copy with zeros under the "
                                 "mask")));
}

// Values and row indices, as other libraries put them into a tuple.
bool is_pair_of_arrays(py::handle object) {
    if (!PyTuple_Check(object.ptr()) || PyTuple_GET_SIZE(object.ptr()) != 2) return false;
    return offers_memory(PyTuple_GET_ITEM(object.ptr(), 0)) && offers_memory(PyTuple_GET_ITEM(object.ptr(), 1));
}

std::string other_array(py::handle object, Elements elements) {
    if (py::hasattr(object, "toarray")) return "give its .toarray(), which is dense";
    if (py::hasattr(object, "todense")) return "give its .todense(), which is dense";
    if (py::hasattr(object, "__cuda_array_interface__")) return "copy it to the CPU";
    if (PyIter_Check(object.ptr())) return "collect its items into a numpy.ndarray";
    if (PySequence_Check(object.ptr()) || PyNumber_Check(object.ptr())) {
        return std::string("give numpy.array of it, with dtype=numpy.") + words_of(elements).dtype;
    }
    return "give a numpy.ndarray";
}

std::string advice(py::handle object, Elements elements) {
    if (PyDict_Check(object.ptr())) return "give one array here, in a flat dict if there are names";
    if (PyUnicode_Check(object.ptr())) return "give the array itself";
    if (elements == Elements::numbers && is_pair_of_arrays(object)) {
        return "give fusedopt.RowGradient(values, indices) for a gradient of rows";
    }
    return advice_for(elements, other_array(object, elements));
}

// Keeps what another library says of the cause, which mostly says what to do as well.
[[noreturn]] void refuse_conversion(py::error_already_set& error, py::handle object, const std::string& who,
                                    Elements elements) {
    if (const std::string found = explained(object); !found.empty()) {
        const std::string message = who + ": expected a dense array of " + words_of(elements).kind +
                                    " in CPU memory, found " + advice_for(elements, found);
        py::raise_from(error, PyExc_TypeError, message.c_str());
        throw py::error_already_set();
    }
    std::string cause = py::str(error.value()).cast<std::string>();
    while (!cause.empty() && (cause.back() == '.' || cause.back() == '\n')) cause.pop_back();
    const std::string message = who + ": expected an array in CPU memory, found " + type_name(object) +
                                " that cannot give one (" + type_name(error.value()) +
                                (cause.empty() ? "" : ": " + cause) + "); " +
                                advice_for(elements, "convert it to a numpy.ndarray yourself");
    py::raise_from(error, PyExc_TypeError, message.c_str());
    throw py::error_already_set();
}

// What takes part in a recorded computation gives its memory when it is detached from that.
py::object detached(py::handle object) {
    const py::object records = py::getattr(object, protocols().requires_grad, py::none());
    return records.ptr() == Py_True && py::hasattr(object, protocols().detach)
               ? call(object.attr(protocols().detach))
               : py::reinterpret_borrow<py::object>(object);
}

py::array exchanged(py::handle object, const std::string& who, Elements elements) {
    try {
        return dlpack_array(detached(object), who, elements);
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_Exception) || error.matches(PyExc_MemoryError)) throw;
        refuse_conversion(error, object, who, elements);
    }
}

py::array converted(py::handle object, const std::string& who, Elements elements) {
    refuse_mask(object, who, elements);
    py::object array;
    try {
        array = call(protocols().asanyarray, detached(object));
    } catch (py::error_already_set& error) {
        if (!error.matches(PyExc_Exception) || error.matches(PyExc_MemoryError)) throw;
        if (explained(object).empty() && offers_dlpack(object)) {  // NumPy has no bfloat16
            try {
                return dlpack_array(detached(object), who, elements);
            } catch (const py::error_already_set& other) {
                if (!other.matches(PyExc_Exception)) throw;
            } catch (const py::type_error&) {
            }
        }
        refuse_conversion(error, object, who, elements);
    }
    if (!is_plain_array(array)) refuse_mask(array, who, elements);
    return array;
}

py::array as_array(py::handle object, const std::string& who, Elements elements) {
    if (!offers_memory(object)) {
        if (offers_dlpack(object)) return exchanged(object, who, elements);
        throw py::type_error(who + ": expected a numpy.ndarray or an object that shares CPU memory (buffer protocol, " +
                             "__array_interface__ or __array__), found " + type_name(object) + "; " +
                             advice(object, elements));
    }
    const py::array array = converted(object, who, elements);
    // Tensors have no such method; NumPy's advice is not for them.
    const auto dtype = elements == Elements::indices ? index_dtype_of(array) : KnownDTypes().of(array);
    if (!dtype && py::hasattr(object, protocols().dtype) && !py::hasattr(object, "astype")) {
        const std::string found = explained(object);
        throw py::type_error(who + ": expected " + words_of(elements).types + ", found " +
                             advice_for(elements, found.empty() ? type_name(object) + " of dtype " +
                                                                      py::str(array.dtype()).cast<std::string>() +
                                                                      "; convert it to " + words_of(elements).dtype
                                                                : found));
    }
    return array;
}

}  // namespace

bool offers_memory(py::handle object) {
    return py::hasattr(object, protocols().array_interface) || py::hasattr(object, protocols().array) ||
           PyObject_CheckBuffer(object.ptr()) != 0;
}

py::array gradient_array(py::handle object, const std::string& who) {
    if (is_plain_array(object)) return py::reinterpret_borrow<py::array>(object);
    const auto memory = Exchange().values(object);
    return memory ? array_over(*memory, object) : as_array(object, who, Elements::numbers);
}

py::array index_array(py::handle object, const std::string& who) {
    if (is_plain_array(object)) return py::reinterpret_borrow<py::array>(object);
    const auto memory = Exchange().values(object, Elements::indices);
    return memory ? array_over(*memory, object) : as_array(object, who, Elements::indices);
}

py::array value_array(py::handle object, const std::string& who) {
    if (is_plain_array(object)) return py::reinterpret_borrow<py::array>(object);
    const auto memory = Exchange().values(object);
    return memory ? array_over(*memory, object) : converted(object, who, Elements::numbers);
}

py::array variable_array(py::handle object, const std::string& who) {
    constexpr Elements elements = Elements::variable;
    if (is_plain_array(object)) return py::reinterpret_borrow<py::array>(object);
    if (const auto memory = Exchange().values(object)) return array_over(*memory, object);
    if (py::isinstance<py::array>(object)) return as_array(object, who, elements);
    // Two arrays of shared memory have one address; two copies, both alive, have two.
    py::array first = as_array(object, who, elements);
    py::array second = as_array(object, who, elements);
    if (first.data() != second.data() && offers_dlpack(object)) {
        first = exchanged(object, who, elements);
        second = exchanged(object, who, elements);
    }
    if (first.data() != second.data()) {
        throw py::type_error(who + ": expected an object that shares its memory, but this " + type_name(object) +
                             " gives a new copy each time; " + advice_for(elements, "give a numpy.ndarray"));
    }
    if (!first.writeable()) {
        throw py::value_error(who + ": expected writable memory, found that of " + type_name(object) +
                              ", which is read-only; " + advice_for(elements, "give numpy.array of it"));
    }
    return first;
}

py::object owner_of(py::object object) {
    for (;;) {
        if (py::isinstance<py::array>(object)) {
            object = object.attr("base");
        } else if (PyMemoryView_Check(object.ptr())) {
            object = object.attr("obj");
        } else {
            return object;
        }
    }
}

bool is_known_at(py::handle object, const void* data, const py::tuple& shape, py::handle dtype) {
    const Protocols& names = protocols();
    const auto ask = [&](const py::str& name) {
        return py::reinterpret_steal<py::object>(
            outlasting([&] { return PyObject_CallMethodNoArgs(object.ptr(), name.ptr()); }));
    };
    if (const py::object address = ask(names.data_ptr); address && PyLong_Check(address.ptr())) {
        const py::object now = py::reinterpret_steal<py::object>(PyObject_GetAttr(object.ptr(), names.shape.ptr()));
        const py::object contiguous = now ? ask(names.is_contiguous) : py::object();
        if (contiguous && PyLong_AsVoidPtr(address.ptr()) == data && contiguous.ptr() == Py_True &&
            PyObject_RichCompareBool(now.ptr(), shape.ptr(), Py_EQ) == 1 &&
            (dtype.is_none() || py::object(py::getattr(object, protocols().dtype, py::none()))
                                    .equal(py::reinterpret_borrow<py::object>(dtype)))) {
            return true;
        }
    }
    PyErr_Clear();
    return false;
}

}  // namespace fusedopt::python
