// The schedules as functions of a step, or of an array of steps, and their arguments: Python keeps no object of the
// core.
#include <fusedopt/schedules.hpp>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <optional>
#include <utility>
#include <vector>

#include "register.hpp"

namespace fusedopt::python {

namespace py = pybind11;

namespace {

/// A float for a float; for an array of float64 one of the same shape.
template <class Schedule>
py::object evaluate(const Schedule& schedule, const py::object& steps) {
    if (PyFloat_Check(steps.ptr())) return py::float_(schedule(steps.cast<double>()));
    const auto array = steps.cast<py::array_t<double, py::array::c_style>>();
    py::array_t<double> rates(std::vector<py::ssize_t>(array.shape(), array.shape() + array.ndim()));
    double* const rate = rates.mutable_data();
    for (py::ssize_t i = 0; i < array.size(); ++i) rate[i] = schedule(array.data()[i]);
    return rates[py::tuple()];  // of no dimensions, a scalar
}

/// Defines a schedule as a function: the types and names of its fields, in their order.
template <class Schedule, class... Fields, class... Names>
void define(py::module_& module, const char* name, const Names*... names) {
    static_assert(sizeof...(Fields) == sizeof...(Names));
    module.def(
        name, [](const py::object& step, Fields... fields) { return evaluate(Schedule{std::move(fields)...}, step); },
        py::arg("step"), py::kw_only(), py::arg(names)...);
}

}  // namespace

void register_schedules(py::module_& module) {
    using Numbers = std::vector<double>;
    define<ExponentialDecay, double, double, double, bool>(module, "exponential_decay", "initial_learning_rate",
                                                           "decay_steps", "decay_rate", "staircase");
    define<InverseTimeDecay, double, double, double, bool>(module, "inverse_time_decay", "initial_learning_rate",
                                                           "decay_steps", "decay_rate", "staircase");
    define<PolynomialDecay, double, double, double, double, bool>(module, "polynomial_decay", "initial_learning_rate",
                                                                  "decay_steps", "end_learning_rate", "power", "cycle");
    define<PiecewiseConstantDecay, Numbers, Numbers>(module, "piecewise_constant_decay", "boundaries", "values");
    define<CosineDecay, double, double, double, std::optional<double>, double>(
        module, "cosine_decay", "initial_learning_rate", "decay_steps", "alpha", "warmup_target", "warmup_steps");
    define<CosineDecayRestarts, double, double, double, double, double>(
        module, "cosine_decay_restarts", "initial_learning_rate", "first_decay_steps", "t_mul", "m_mul", "alpha");
}

}  // namespace fusedopt::python
