// Texts that Python keeps once: to look one up compares addresses.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedopt::python {

inline pybind11::str interned(const char* text) {
    PyObject* object = PyUnicode_InternFromString(text);
    if (!object) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<pybind11::str>(object);
}

}  // namespace fusedopt::python
