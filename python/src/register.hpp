// What the module is made of.
#pragma once

#include <pybind11/pybind11.h>

namespace fusedopt::python {

void register_rules(pybind11::module_& module);
void register_optimizers(pybind11::module_& module);
void register_slots(pybind11::module_& module);
void register_hosted(pybind11::module_& module);
void register_runtime(pybind11::module_& module);
void register_schedules(pybind11::module_& module);

/// Reads the environment at the first use of what it sets: throws, or warns once if a value counts as unset.
void warn_of_environment();

}  // namespace fusedopt::python
