#include "register.hpp"

PYBIND11_MODULE(core_of_main_interpreter, module, pybind11::mod_gil_not_used()) {
    fusedopt::python::register_runtime(module);
    fusedopt::python::register_rules(module);
    fusedopt::python::register_optimizers(module);
    fusedopt::python::register_slots(module);
    fusedopt::python::register_hosted(module);
    fusedopt::python::register_schedules(module);
}

// The entry that Python calls. In a subinterpreter pybind11's own would wait forever for the lock of the main one.
extern "C" PYBIND11_EXPORT PyObject* PyInit__core();
extern "C" PYBIND11_EXPORT PyObject* PyInit__core() {
    if (PyInterpreterState_Get() != PyInterpreterState_Main()) {
        PyErr_SetString(PyExc_ImportError,
                        "fusedopt: expected the main interpreter, found a subinterpreter; import fusedopt in the main "
                        "interpreter or in a process of its own");
        return nullptr;
    }
    return PyInit_core_of_main_interpreter();
}
