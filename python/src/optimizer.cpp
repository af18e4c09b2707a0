// The optimizers as Python holds them: the core's object, and the arrays whose memory it updates.
#include <fusedopt/fusedopt.hpp>

#include <pybind11/stl.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "register.hpp"

namespace fusedopt::python {
namespace {

// Releases a Python object wherever it dies, with the GIL.
std::shared_ptr<py::object> share(py::object object) {
    return {new py::object(std::move(object)), [](py::object* held) {
                const py::gil_scoped_acquire acquire;
                delete held;
            }};
}

double real_number(py::handle value, const char* name) {
    const double number = PyFloat_AsDouble(value.ptr());
    if (PyErr_Occurred()) {
        PyErr_Clear();
        throw py::type_error(std::string(name) + ": expected a real number, found " +
                             py::repr(value).cast<std::string>());
    }
    return number;
}

/// A number, or a function of the step counter that is called with the GIL.
Hyperparameter hyperparameter(const py::object& value, const char* name) {
    if (!PyCallable_Check(value.ptr())) return real_number(value, name);
    return [function = share(value), name](std::int64_t step) {
        const py::gil_scoped_acquire acquire;
        return real_number((*function)(step), name);
    };
}

/// The staging area of a call, kept by its thread so that a step allocates nothing.
struct Staging {
    std::vector<Tensor> gradients;
    std::vector<Tensor> variables;
    std::vector<py::array> converted;  // arrays made from other objects, alive until the step is done
};

thread_local std::unique_ptr<Staging> idle_staging;

class BorrowedStaging {
public:
    BorrowedStaging() : staging_(std::move(idle_staging)) {
        if (!staging_) staging_ = std::make_unique<Staging>();
    }
    ~BorrowedStaging() {
        staging_->gradients.clear();
        staging_->variables.clear();
        staging_->converted.clear();
        idle_staging = std::move(staging_);
    }
    BorrowedStaging(const BorrowedStaging&) = delete;
    BorrowedStaging& operator=(const BorrowedStaging&) = delete;
    Staging* operator->() { return staging_.get(); }

private:
    std::unique_ptr<Staging> staging_;
};

/// The variables given to build: their arrays keep the memory alive.
class Built {
public:
    void build(Optimizer& core, const py::sequence& objects, std::vector<std::string> names) {
        std::vector<py::array> arrays;
        std::vector<Tensor> tensors;
        for (std::size_t i = 0; i < objects.size(); ++i) {
            const std::string who = "variable " + std::to_string(i) + (names.empty() ? "" : " ('" + names[i] + "')");
            arrays.push_back(variable_array(objects[i], who));
            tensors.push_back(view(arrays.back(), who));
        }
        {
            const py::gil_scoped_release release;
            core.build(tensors, names);
        }
        arrays_ = std::move(arrays);
        names_ = std::move(names);
        for (const Tensor& tensor : tensors) memory_.push_back({tensor.data(), tensor.size_bytes()});
    }

    std::string describe(std::size_t index) const {
        return "variable " + std::to_string(index) + (index < names_.size() ? " ('" + names_[index] + "')" : "");
    }

    std::string describe_gradient(std::size_t position, bool in_built_order) const {
        return in_built_order ? "gradient of " + describe(position) : "gradient " + std::to_string(position);
    }

    /// numpy.ndarray.resize and assignment to .data can swap an array's memory behind everybody's back.
    void check_memory() const {
        for (std::size_t i = 0; i < arrays_.size(); ++i) {
            if (arrays_[i].data() != memory_[i].data || arrays_[i].nbytes() != memory_[i].bytes) {
                throw std::invalid_argument(describe(i) +
                                            ": expected the memory it was built with, found it moved or " +
                                            "resized; build a new optimizer on it");
            }
        }
    }

    const std::vector<py::array>& arrays() const { return arrays_; }

private:
    struct Memory {
        const void* data;
        std::int64_t bytes;
    };
    std::vector<py::array> arrays_;
    std::vector<std::string> names_;
    std::vector<Memory> memory_;
};

void warn_of_missing(const std::vector<std::string>& missing) {
    std::string list;
    for (const std::string& name : missing) list += (list.empty() ? "" : ", ") + name;
    const std::string text = "No gradient for " + list + "; left as it is in this step.";
    if (PyErr_WarnEx(PyExc_UserWarning, text.c_str(), 2) != 0) throw py::error_already_set();
}

/// Reads gradients and, where given, variables; calls step with their views and without the GIL.
template <class Step>
auto call_step(const Built& built, const py::object& gradients, const py::object& variables, const Step& step) {
    const py::tuple gradient_objects(gradients);
    const bool in_built_order = variables.is_none();
    const py::tuple variable_objects = in_built_order ? py::tuple() : py::tuple(variables);
    built.check_memory();

    BorrowedStaging staging;
    std::vector<std::string> missing;
    for (std::size_t i = 0; i < variable_objects.size(); ++i) {
        const std::string who = "variable at position " + std::to_string(i);
        staging->converted.push_back(variable_array(variable_objects[i], who));
        staging->variables.push_back(view(staging->converted.back(), who));
    }
    staging->gradients.reserve(gradient_objects.size());
    for (std::size_t i = 0; i < gradient_objects.size(); ++i) {
        const py::handle object = PyTuple_GET_ITEM(gradient_objects.ptr(), static_cast<py::ssize_t>(i));
        if (object.is_none()) {
            staging->gradients.emplace_back();
            missing.push_back(in_built_order ? built.describe(i) : "variable at position " + std::to_string(i));
        } else if (py::isinstance<py::array>(object)) {
            const auto array = py::reinterpret_borrow<py::array>(object);
            const std::optional<DType> dtype = known_dtype(array);
            if (!dtype) refuse_dtype(array, built.describe_gradient(i, in_built_order));
            staging->gradients.push_back(view(array, *dtype));
        } else {
            const std::string who = built.describe_gradient(i, in_built_order);
            staging->converted.push_back(gradient_array(object, who));
            staging->gradients.push_back(view(staging->converted.back(), who));
        }
    }
    if (!missing.empty() && missing.size() < gradient_objects.size()) warn_of_missing(missing);

    const py::gil_scoped_release release;
    return in_built_order ? step(std::span<const Tensor>(staging->gradients), nullptr)
                          : step(std::span<const Tensor>(staging->gradients), &staging->variables);
}

py::list live_views(const std::vector<NamedTensor>& variables, py::handle owner) {
    py::list list;
    for (const NamedTensor& variable : variables) {
        list.append(py::make_tuple(variable.name, live_view(variable.tensor, owner)));
    }
    return list;
}

/// Values for set_weights; the package has brought them to the dtypes of `variables`.
std::vector<Tensor> views(const std::vector<py::array>& arrays) {
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < arrays.size(); ++i) {
        if (arrays[i].dtype().num() == py::dtype::of<std::int64_t>().num()) {
            const std::vector<std::int64_t> shape(arrays[i].shape(), arrays[i].shape() + arrays[i].ndim());
            tensors.emplace_back(arrays[i].data(), DType::int64, shape);
        } else {
            tensors.push_back(view(arrays[i], "set_weights: array " + std::to_string(i)));
        }
    }
    return tensors;
}

class PyOptimizer {
public:
    PyOptimizer(Rule rule, Options options) : core(std::make_shared<Optimizer>(std::move(rule), std::move(options))) {}

    void exclude_from_weight_decay(const py::sequence& objects) {
        std::vector<Tensor> tensors;
        for (std::size_t i = 0; i < objects.size(); ++i) {
            const std::string who = "exclude_from_weight_decay: variable " + std::to_string(i);
            excluded.push_back(variable_array(objects[i], who));
            tensors.push_back(view(excluded.back(), who));
        }
        const py::gil_scoped_release release;
        core->exclude_from_weight_decay(tensors);
    }

    void build(const py::sequence& objects, std::vector<std::string> names) {
        built.build(*core, objects, std::move(names));
        excluded.clear();
    }

    void apply(const py::object& gradients, const py::object& variables) {
        call_step(built, gradients, variables, [&](auto g, const std::vector<Tensor>* v) {
            v ? core->apply(g, std::span<const Tensor>(*v)) : core->apply(g);
            return 0;
        });
    }

    void finalize_variable_values(const py::sequence& objects) {
        built.check_memory();
        std::vector<Tensor> tensors;
        std::vector<py::array> arrays;
        for (std::size_t i = 0; i < objects.size(); ++i) {
            const std::string who = "finalize_variable_values: variable " + std::to_string(i);
            arrays.push_back(variable_array(objects[i], who));
            tensors.push_back(view(arrays.back(), who));
        }
        const py::gil_scoped_release release;
        core->finalize_variable_values(tensors);
    }

    void set_weights(const std::vector<py::array>& arrays) {
        const std::vector<Tensor> tensors = views(arrays);
        const py::gil_scoped_release release;
        core->set_weights(tensors);
    }

    std::shared_ptr<Optimizer> core;
    Built built;
    std::vector<py::array> excluded;
};

class PyLossScale {
public:
    PyLossScale(std::shared_ptr<PyOptimizer> inner_, double initial_scale, std::int64_t dynamic_growth_steps)
        : inner(std::move(inner_)), core(inner->core, {initial_scale, dynamic_growth_steps}) {}

    bool apply(const py::object& gradients, const py::object& variables) {
        return call_step(inner->built, gradients, variables, [&](auto g, const std::vector<Tensor>* v) {
            return v ? core.apply(g, std::span<const Tensor>(*v)) : core.apply(g);
        });
    }

    void set_weights(const std::vector<py::array>& arrays) {
        const std::vector<Tensor> tensors = views(arrays);
        const py::gil_scoped_release release;
        core.set_weights(tensors);
    }

    std::shared_ptr<PyOptimizer> inner;
    LossScaleOptimizer core;
};

/// A rule as one Python object; pybind11 would take the variant apart.
struct PyRule {
    Rule rule;
};

Options make_options(const py::object& learning_rate, std::optional<double> weight_decay,
                     std::optional<double> clipnorm, std::optional<double> clipvalue,
                     std::optional<double> global_clipnorm, bool use_ema, double ema_momentum,
                     std::optional<std::int64_t> ema_overwrite_frequency, std::optional<double> loss_scale_factor,
                     std::optional<std::int64_t> gradient_accumulation_steps) {
    Options options;
    options.learning_rate = hyperparameter(learning_rate, "learning_rate");
    options.weight_decay = weight_decay;
    options.clipnorm = clipnorm;
    options.clipvalue = clipvalue;
    options.global_clipnorm = global_clipnorm;
    options.use_ema = use_ema;
    options.ema_momentum = ema_momentum;
    options.ema_overwrite_frequency = ema_overwrite_frequency;
    options.loss_scale_factor = loss_scale_factor;
    options.gradient_accumulation_steps = gradient_accumulation_steps;
    return options;
}

// The core's accessors lock, and a learning-rate function may hold that lock while it waits for the GIL.
using Unlocked = py::call_guard<py::gil_scoped_release>;

}  // namespace

void register_optimizers(py::module_& module) {
    py::class_<PyRule>(module, "Rule");
    module.def(
        "sgd", [](double momentum, bool nesterov) { return PyRule{SGD{momentum, nesterov}}; }, py::kw_only(),
        py::arg("momentum"), py::arg("nesterov"));
    module.def(
        "rmsprop",
        [](double rho, double momentum, double epsilon, bool centered) {
            return PyRule{RMSprop{rho, momentum, epsilon, centered}};
        },
        py::kw_only(), py::arg("rho"), py::arg("momentum"), py::arg("epsilon"), py::arg("centered"));
    module.def(
        "adam",
        [](const py::object& beta_1, const py::object& beta_2, double epsilon, bool amsgrad) {
            return PyRule{Adam{hyperparameter(beta_1, "beta_1"), hyperparameter(beta_2, "beta_2"), epsilon, amsgrad}};
        },
        py::kw_only(), py::arg("beta_1"), py::arg("beta_2"), py::arg("epsilon"), py::arg("amsgrad"));

    module.def(
        "adagrad",
        [](double initial_accumulator_value, double epsilon) {
            return PyRule{Adagrad{initial_accumulator_value, epsilon}};
        },
        py::kw_only(), py::arg("initial_accumulator_value"), py::arg("epsilon"));
    module.def(
        "adadelta", [](double rho, double epsilon) { return PyRule{Adadelta{rho, epsilon}}; }, py::kw_only(),
        py::arg("rho"), py::arg("epsilon"));
    module.def(
        "adamax",
        [](const py::object& beta_1, const py::object& beta_2, double epsilon) {
            return PyRule{Adamax{hyperparameter(beta_1, "beta_1"), hyperparameter(beta_2, "beta_2"), epsilon}};
        },
        py::kw_only(), py::arg("beta_1"), py::arg("beta_2"), py::arg("epsilon"));
    module.def(
        "nadam",
        [](const py::object& beta_1, const py::object& beta_2, double epsilon) {
            return PyRule{Nadam{hyperparameter(beta_1, "beta_1"), hyperparameter(beta_2, "beta_2"), epsilon}};
        },
        py::kw_only(), py::arg("beta_1"), py::arg("beta_2"), py::arg("epsilon"));
    module.def(
        "lion",
        [](const py::object& beta_1, const py::object& beta_2) {
            return PyRule{Lion{hyperparameter(beta_1, "beta_1"), hyperparameter(beta_2, "beta_2")}};
        },
        py::kw_only(), py::arg("beta_1"), py::arg("beta_2"));
    module.def(
        "ftrl",
        [](double learning_rate_power, double initial_accumulator_value, double l1_regularization_strength,
           double l2_regularization_strength, double l2_shrinkage_regularization_strength, double beta) {
            return PyRule{Ftrl{learning_rate_power, initial_accumulator_value, l1_regularization_strength,
                               l2_regularization_strength, l2_shrinkage_regularization_strength, beta}};
        },
        py::kw_only(), py::arg("learning_rate_power"), py::arg("initial_accumulator_value"),
        py::arg("l1_regularization_strength"), py::arg("l2_regularization_strength"),
        py::arg("l2_shrinkage_regularization_strength"), py::arg("beta"));
    module.def(
        "lamb",
        [](const py::object& beta_1, const py::object& beta_2, double epsilon) {
            return PyRule{Lamb{hyperparameter(beta_1, "beta_1"), hyperparameter(beta_2, "beta_2"), epsilon}};
        },
        py::kw_only(), py::arg("beta_1"), py::arg("beta_2"), py::arg("epsilon"));
    module.def(
        "schedule_free_adamw",
        [](const py::object& beta_1, const py::object& beta_2, double epsilon, std::int64_t warmup_steps) {
            return PyRule{ScheduleFreeAdamW{hyperparameter(beta_1, "beta_1"), hyperparameter(beta_2, "beta_2"), epsilon,
                                            warmup_steps}};
        },
        py::kw_only(), py::arg("beta_1"), py::arg("beta_2"), py::arg("epsilon"), py::arg("warmup_steps"));

    py::class_<Options>(module, "Options")
        .def(py::init(&make_options), py::kw_only(), py::arg("learning_rate"), py::arg("weight_decay"),
             py::arg("clipnorm"), py::arg("clipvalue"), py::arg("global_clipnorm"), py::arg("use_ema"),
             py::arg("ema_momentum"), py::arg("ema_overwrite_frequency"), py::arg("loss_scale_factor"),
             py::arg("gradient_accumulation_steps"));

    py::class_<PyOptimizer, std::shared_ptr<PyOptimizer>>(module, "Optimizer")
        .def(py::init([](const PyRule& rule, const Options& options) {
                 return std::make_shared<PyOptimizer>(rule.rule, options);
             }),
             py::arg("rule"), py::arg("options"))
        .def("exclude_from_weight_decay", &PyOptimizer::exclude_from_weight_decay, py::arg("variables"))
        .def("build", &PyOptimizer::build, py::arg("variables"), py::arg("names"))
        .def("apply", &PyOptimizer::apply, py::arg("gradients"), py::arg("variables"))
        .def("finalize_variable_values", &PyOptimizer::finalize_variable_values, py::arg("variables"))
        .def("set_weights", &PyOptimizer::set_weights, py::arg("values"))
        .def(
            "set_learning_rate",
            [](PyOptimizer& self, const py::object& value) {
                Hyperparameter learning_rate = hyperparameter(value, "learning_rate");
                const py::gil_scoped_release release;
                self.core->set_learning_rate(std::move(learning_rate));
            },
            py::arg("learning_rate"))
        .def("variables",
             [](const py::object& self) {
                 const auto core = self.cast<PyOptimizer&>().core;
                 std::vector<NamedTensor> variables;
                 {
                     const py::gil_scoped_release release;
                     variables = core->variables();
                 }
                 return live_views(variables, self);
             })
        .def_property_readonly("arrays", [](const PyOptimizer& self) { return self.built.arrays(); })
        .def_property_readonly("built",
                               py::cpp_function([](const PyOptimizer& self) { return self.core->built(); }, Unlocked()))
        .def_property_readonly(
            "iterations", py::cpp_function([](const PyOptimizer& self) { return self.core->iterations(); }, Unlocked()))
        .def_property_readonly("calls",
                               py::cpp_function([](const PyOptimizer& self) { return self.core->calls(); }, Unlocked()))
        .def_property_readonly(
            "learning_rate",
            py::cpp_function([](const PyOptimizer& self) { return self.core->learning_rate(); }, Unlocked()))
        .def_property_readonly(
            "loss_scale_factor",
            py::cpp_function([](const PyOptimizer& self) { return self.core->loss_scale_factor(); }, Unlocked()))
        .def_property_readonly(
            "global_norm",
            py::cpp_function([](const PyOptimizer& self) { return self.core->global_norm(); }, Unlocked()));

    py::class_<PyLossScale>(module, "LossScale")
        .def(py::init<std::shared_ptr<PyOptimizer>, double, std::int64_t>(), py::arg("inner"), py::arg("initial_scale"),
             py::arg("dynamic_growth_steps"))
        .def("apply", &PyLossScale::apply, py::arg("gradients"), py::arg("variables"))
        .def("set_weights", &PyLossScale::set_weights, py::arg("values"))
        .def("variables",
             [](const py::object& self) {
                 const auto& core = self.cast<PyLossScale&>().core;
                 std::vector<NamedTensor> variables;
                 {
                     const py::gil_scoped_release release;
                     variables = core.variables();
                 }
                 return live_views(variables, self);
             })
        .def_property_readonly(
            "dynamic_scale",
            py::cpp_function([](const PyLossScale& self) { return self.core.dynamic_scale(); }, Unlocked()))
        .def_property_readonly(
            "step_counter",
            py::cpp_function([](const PyLossScale& self) { return self.core.step_counter(); }, Unlocked()))
        .def_property_readonly(
            "consecutive_skipped_steps",
            py::cpp_function([](const PyLossScale& self) { return self.core.consecutive_skipped_steps(); },
                             Unlocked()));
}

}  // namespace fusedopt::python
