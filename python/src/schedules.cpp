// The schedules as functions of a step and their arguments: Python keeps no object of the core.
#include <fusedopt/schedules.hpp>

#include <pybind11/stl.h>

#include <utility>

#include "register.hpp"

namespace fusedopt::python {

namespace py = pybind11;

void register_schedules(py::module_& module) {
    module.def(
        "exponential_decay",
        [](double step, double initial_learning_rate, double decay_steps, double decay_rate, bool staircase) {
            return ExponentialDecay{initial_learning_rate, decay_steps, decay_rate, staircase}(step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("decay_steps"), py::arg("decay_rate"),
        py::arg("staircase"));
    module.def(
        "inverse_time_decay",
        [](double step, double initial_learning_rate, double decay_steps, double decay_rate, bool staircase) {
            return InverseTimeDecay{initial_learning_rate, decay_steps, decay_rate, staircase}(step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("decay_steps"), py::arg("decay_rate"),
        py::arg("staircase"));
    module.def(
        "polynomial_decay",
        [](double step, double initial_learning_rate, double decay_steps, double end_learning_rate, double power,
           bool cycle) {
            return PolynomialDecay{initial_learning_rate, decay_steps, end_learning_rate, power, cycle}(step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("decay_steps"),
        py::arg("end_learning_rate"), py::arg("power"), py::arg("cycle"));
    module.def(
        "piecewise_constant_decay",
        [](double step, std::vector<double> boundaries, std::vector<double> values) {
            return PiecewiseConstantDecay{std::move(boundaries), std::move(values)}(step);
        },
        py::arg("step"), py::kw_only(), py::arg("boundaries"), py::arg("values"));
    module.def(
        "cosine_decay",
        [](double step, double initial_learning_rate, double decay_steps, double alpha,
           std::optional<double> warmup_target, double warmup_steps) {
            return CosineDecay{initial_learning_rate, decay_steps, alpha, warmup_target, warmup_steps}(step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("decay_steps"), py::arg("alpha"),
        py::arg("warmup_target"), py::arg("warmup_steps"));
    module.def(
        "cosine_decay_restarts",
        [](double step, double initial_learning_rate, double first_decay_steps, double t_mul, double m_mul,
           double alpha) {
            return CosineDecayRestarts{initial_learning_rate, first_decay_steps, t_mul, m_mul, alpha}(step);
        },
        py::arg("step"), py::kw_only(), py::arg("initial_learning_rate"), py::arg("first_decay_steps"),
        py::arg("t_mul"), py::arg("m_mul"), py::arg("alpha"));
}

}  // namespace fusedopt::python
