// The schedules as functions of a step, or of an array of steps, and their arguments: Python keeps no object of the
// core.
#include <fusedopt/schedules.hpp>

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

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

}  // namespace

void register_schedules(py::module_& module) {
    module.def(
        "exponential_decay",
        [](const py::object& step, double initial_learning_rate, double decay_steps, double decay_rate,
           bool staircase) {
            return evaluate(ExponentialDecay{initial_learning_rate, decay_steps, decay_rate, staircase}, step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("decay_steps"), py::arg("decay_rate"),
        py::arg("staircase"));
    module.def(
        "inverse_time_decay",
        [](const py::object& step, double initial_learning_rate, double decay_steps, double decay_rate,
           bool staircase) {
            return evaluate(InverseTimeDecay{initial_learning_rate, decay_steps, decay_rate, staircase}, step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("decay_steps"), py::arg("decay_rate"),
        py::arg("staircase"));
    module.def(
        "polynomial_decay",
        [](const py::object& step, double initial_learning_rate, double decay_steps, double end_learning_rate,
           double power, bool cycle) {
            return evaluate(PolynomialDecay{initial_learning_rate, decay_steps, end_learning_rate, power, cycle}, step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("decay_steps"),
        py::arg("end_learning_rate"), py::arg("power"), py::arg("cycle"));
    module.def(
        "piecewise_constant_decay",
        [](const py::object& step, std::vector<double> boundaries, std::vector<double> values) {
            return evaluate(PiecewiseConstantDecay{std::move(boundaries), std::move(values)}, step);
        },
        py::arg("step"), py::kw_only(), py::arg("boundaries"), py::arg("values"));
    module.def(
        "cosine_decay",
        [](const py::object& step, double initial_learning_rate, double decay_steps, double alpha,
           std::optional<double> warmup_target, double warmup_steps) {
            return evaluate(CosineDecay{initial_learning_rate, decay_steps, alpha, warmup_target, warmup_steps}, step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("decay_steps"), py::arg("alpha"),
        py::arg("warmup_target"), py::arg("warmup_steps"));
    module.def(
        "cosine_decay_restarts",
        [](const py::object& step, double initial_learning_rate, double first_decay_steps, double t_mul, double m_mul,
           double alpha) {
            return evaluate(CosineDecayRestarts{initial_learning_rate, first_decay_steps, t_mul, m_mul, alpha}, step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("first_decay_steps"),
        py::arg("t_mul"), py::arg("m_mul"), py::arg("alpha"));
}

}  // namespace fusedopt::python
