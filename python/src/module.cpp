#include "register.hpp"

PYBIND11_MODULE(_core, module, pybind11::mod_gil_not_used()) {
    fusedopt::python::register_runtime(module);
    fusedopt::python::register_rules(module);
    fusedopt::python::register_optimizers(module);
    fusedopt::python::register_schedules(module);
}
