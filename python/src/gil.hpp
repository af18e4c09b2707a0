// The GIL, released and taken again. While the interpreter ends, Python ends each thread that asks for the GIL. Some
// versions unwind the thread's stack for that. Destructors would then work on Python objects without the GIL, or stop
// the process because they must not throw. So such a thread sleeps until the process ends, as it does from Python 3.14
// on.
#pragma once

#include <pybind11/pybind11.h>

#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <utility>

#if defined(__GLIBCXX__)
#include <cxxabi.h>
#endif

namespace fusedopt::python {

/// Returns function(), unless Python ends the thread in it. No destructor of ours may stand between the two.
template <class Function>
auto outlasting(const Function& function) {
#if defined(__GLIBCXX__)
    try {
        return function();
    } catch (const abi::__forced_unwind&) {
        for (;;) std::this_thread::sleep_for(std::chrono::hours(1));
    }
#else
    return function();
#endif
}

/// Without the GIL to the end of the scope.
class Unlocked {
public:
    Unlocked() : state_(PyEval_SaveThread()) {}
    ~Unlocked() {
        outlasting([this] { PyEval_RestoreThread(state_); });
    }
    Unlocked(const Unlocked&) = delete;
    Unlocked& operator=(const Unlocked&) = delete;

private:
    PyThreadState* state_;
};

/// With the GIL to the end of the scope.
class Locked {
public:
    Locked() : state_(outlasting([] { return PyGILState_Ensure(); })) {}
    ~Locked() { PyGILState_Release(state_); }
    Locked(const Locked&) = delete;
    Locked& operator=(const Locked&) = delete;

private:
    PyGILState_STATE state_;
};

/// Releases a Python object wherever it dies, with the GIL.
inline std::shared_ptr<pybind11::object> share(pybind11::object object) {
    return {new pybind11::object(std::move(object)), [](pybind11::object* held) {
                const Locked locked;
                delete held;
            }};
}

/// Calls a Python function with these arguments.
template <class... Arguments>
pybind11::object call(pybind11::handle function, const Arguments&... arguments) {
    PyObject* result =
        outlasting([&] { return PyObject_CallFunctionObjArgs(function.ptr(), arguments.ptr()..., nullptr); });
    if (!result) throw pybind11::error_already_set();
    return pybind11::reinterpret_steal<pybind11::object>(result);
}

/// Warns the caller of the package's function.
inline void warn(PyObject* category, const std::string& text) {
    if (outlasting([&] { return PyErr_WarnEx(category, text.c_str(), 2); }) != 0) throw pybind11::error_already_set();
}

}  // namespace fusedopt::python
