#include <fusedopt/runtime.hpp>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <vector>

#include "register.hpp"
#include "traffic.hpp"

namespace fusedopt::python {

namespace py = pybind11;

namespace {

using Floats = py::array_t<float, py::array::c_style>;

void move_bytes_of(const std::vector<Floats>& updated, const std::vector<Floats>& read) {
    std::vector<void*> written;
    std::vector<const void*> sources;
    py::ssize_t size = -1;
    const auto check = [&](const Floats& array) {
        if (size >= 0 && array.size() != size) throw std::invalid_argument("move_bytes: expected arrays of one size");
        size = array.size();
    };
    for (Floats array : updated) {
        check(array);
        written.push_back(array.mutable_data());
    }
    for (const Floats& array : read) {
        check(array);
        sources.push_back(array.data());
    }
    const py::gil_scoped_release release;
    move_bytes(written, sources, size < 0 ? 0 : size);
}

}  // namespace

void register_runtime(py::module_& module) {
    module.def("version", &version);
    module.def("compiler", &compiler);
    module.def("has_threads", &has_threads);
    module.def("num_threads", &num_threads);
    module.def("num_threads_source", &num_threads_source);
    module.def("set_num_threads", &set_num_threads, py::arg("count"));
    module.def("compiled_levels", &compiled_levels);
    module.def("supported_levels", &supported_levels);
    module.def("level", &level);
    module.def("set_level", &set_level, py::arg("name"));
    module.def("read_environment", &read_environment);
    module.def("move_bytes", &move_bytes_of, py::arg("updated").noconvert(), py::arg("read").noconvert());
}

}  // namespace fusedopt::python
