// Where the objects of a host lie in memory, and the numbers and dicts that it keeps with its parameters.
#pragma once

#include <fusedopt/tensor.hpp>

#include <pybind11/pybind11.h>

#include <cmath>
#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>

#include "arrays.hpp"
#include "conversion.hpp"
#include "exchange.hpp"
#include "gil.hpp"
#include "rows.hpp"

namespace fusedopt::python {

namespace py = pybind11;

/// Reads where objects' elements lie.
class Reader {
public:
    /// Any conversion runs the caller's code, after which all must be read again: then arrays take the objects' places.
    /// Their memory is there for as long as the objects live. NumPy's protocols demand that of whoever offers them.
    bool has_converted() const { return has_converted_; }
    void begin(bool again) {
        has_converted_ = false;
        takes_converted_ = again;
    }

    /// False if it had to be converted.
    template <class Who>
    bool read_written(Exchange& exchange, py::object& object, Tensor& tensor, const Who& who) {
        if (is_array(object)) {
            const auto& array = reinterpret_cast<const py::array&>(object);
            if (tensor && tensor.is_writable() != array.writeable()) tensor = Tensor();
            renew(tensor, object, dtype_of(object, who));
        } else if (const auto memory = exchange.memory(object)) {
            if (tensor && !tensor.is_writable()) tensor = Tensor();
            python::renew(tensor, *memory);
        } else {
            object = variable_array(object, who());
            tensor = Tensor();
            has_converted_ = true;
            return false;
        }
        return true;
    }

    /// A gradient. One of rows is taken apart first: its values take its place, and `indices` becomes what says which
    /// rows they are. The result is the shape that it claims to have, or None.
    template <class Who>
    py::object read_gradient(Exchange& exchange, py::object& object, Tensor& tensor, py::object& indices,
                             const Who& who) {
        if (is_array(object)) {
            renew(tensor, object, dtype_of(object, who));
        } else if (const auto memory = exchange.values(object)) {
            python::renew(tensor, *memory);
        } else {
            tensor = Tensor();
            has_converted_ = true;
            std::optional<Rows> rows;
            if (!indices) rows = rows_of(object, who());
            if (rows) {
                object = rows->values;
                indices = rows->indices;
            }
            if (!exchange.values(object)) object = gradient_array(object, who() + (indices ? ", values" : ""));
            if (rows) return rows->shape;
        }
        return py::none();
    }

    template <class Who>
    void read_indices(Exchange& exchange, py::object& object, Tensor& tensor, const Who& who) {
        if (is_array(object)) {
            const std::optional<DType> dtype = index_dtype_of(object);
            if (!dtype) refuse_dtype(object, who(), Elements::indices);
            renew(tensor, object, *dtype);
        } else if (const auto memory = exchange.values(object, Elements::indices)) {
            python::renew(tensor, *memory);
        } else {
            object = index_array(object, who());
            tensor = Tensor();
            has_converted_ = true;
        }
    }

private:
    bool is_array(py::handle object) const {
        return is_plain_array(object) || (takes_converted_ && py::isinstance<py::array>(object));
    }

    template <class Who>
    DType dtype_of(py::handle array, const Who& who) {
        const std::optional<DType> dtype = dtypes_.of(array);
        if (!dtype) refuse_dtype(array, who());
        return *dtype;
    }

    KnownDTypes dtypes_;
    bool has_converted_ = false;
    bool takes_converted_ = false;
};

/// A number that the host keeps with a parameter: a tensor or array of one element, which is written in place, or a
/// number of Python's, which is replaced.
class KeptNumber {
public:
    /// Takes a number of Python's; false if it is another object.
    bool take(py::handle object) {
        place_ = nullptr;
        is_integer_ = PyLong_Check(object.ptr()) != 0;
        if (!is_integer_ && !PyFloat_Check(object.ptr())) return false;
        value_ = PyFloat_AsDouble(object.ptr());
        if (!PyErr_Occurred()) return true;
        PyErr_Clear();  // an integer that no double holds
        value_ = HUGE_VAL;
        return true;
    }

    template <class Who>
    void take(const Tensor& tensor, const Who& who) {
        if (tensor.size() != 1 || (tensor.dtype() != DType::float32 && tensor.dtype() != DType::float64) ||
            !tensor.is_writable() || !tensor.is_aligned()) {
            throw std::invalid_argument(who() +
                                        ": expected a number, or a writable float32 or float64 array of one element, "
                                        "found " +
                                        std::string(to_string(tensor.dtype())) + " with " +
                                        std::to_string(tensor.size()) + " elements");
        }
        place_ = tensor.data();
        is_double_ = tensor.dtype() == DType::float64;
        value_ = is_double_ ? *static_cast<double*>(place_) : static_cast<double>(*static_cast<float*>(place_));
    }

    double value() const { return value_; }
    bool is_in_memory() const { return place_; }
    DType dtype() const { return place_ && !is_double_ ? DType::float32 : DType::float64; }

    void write(double value) const {
        if (is_double_) {
            *static_cast<double*>(place_) = value;
        } else {
            *static_cast<float*>(place_) = static_cast<float>(value);
        }
    }

    py::object as_python(double value) const {
        if (!is_integer_) return py::float_(value);
        return py::int_(static_cast<std::int64_t>(value));
    }

private:
    void* place_ = nullptr;
    bool is_double_ = false;
    bool is_integer_ = false;
    double value_ = 0.0;
};

/// Finds parameters' dicts. Hosts mostly keep them in the order in which the groups list the parameters, and then no
/// key need be hashed.
class StateOf {
public:
    explicit StateOf(const py::dict& all) : all_(all) {}

    /// True if a key had to be hashed and compared, which may run any code.
    bool has_run_code() const { return has_run_code_; }

    /// Null if there is none.
    PyObject* find(PyObject* parameter) {
        PyObject *key, *value;
        Py_ssize_t next = cursor_;
        for (int k = 0; k < looks_ahead && PyDict_Next(all_.ptr(), &next, &key, &value); ++k) {
            if (key != parameter) continue;
            cursor_ = next;
            return value;
        }
        has_run_code_ = true;
        PyObject* found = outlasting([&] { return PyDict_GetItemWithError(all_.ptr(), parameter); });
        if (!found && PyErr_Occurred()) throw py::error_already_set();
        return found;
    }

private:
    static constexpr int looks_ahead = 4;

    const py::dict& all_;
    Py_ssize_t cursor_ = 0;
    bool has_run_code_ = false;
};

}  // namespace fusedopt::python
