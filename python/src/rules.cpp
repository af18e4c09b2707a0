#include "rules.hpp"

#include <pybind11/stl.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "gil.hpp"
#include "register.hpp"

namespace fusedopt::python {
namespace {

// Releases a Python object wherever it dies, with the GIL.
std::shared_ptr<py::object> share(py::object object) {
    return {new py::object(std::move(object)), [](py::object* held) {
                const Locked locked;
                delete held;
            }};
}

double real_number(py::handle value, const char* name) {
    const double number = outlasting([&] { return PyFloat_AsDouble(value.ptr()); });
    if (PyErr_Occurred()) {
        PyErr_Clear();
        throw py::type_error(std::string(name) + ": expected a real number, found " +
                             py::repr(value).cast<std::string>());
    }
    return number;
}

Muon::MatrixProduct matrix_product(const py::object& function) {
    return [function = share(function)](const Tensor& a, const Tensor& b, const Tensor& product) {
        const Locked locked;
        call(*function, live_view(a, py::none()), live_view(b, py::none()), live_view(product, py::none()));
    };
}

Muon::Exclusion exclusion(const py::object& function) {
    return [function = share(function)](const std::string& name) {
        const Locked locked;
        return call(*function, py::str(name)).cast<bool>();
    };
}

Options make_options(const py::object& learning_rate, std::optional<double> weight_decay,
                     std::optional<double> clipnorm, std::optional<double> clipvalue,
                     std::optional<double> global_clipnorm, bool use_ema, double ema_momentum,
                     std::optional<std::int64_t> ema_overwrite_frequency, std::optional<double> loss_scale_factor,
                     std::optional<std::int64_t> gradient_accumulation_steps, bool skip_nonfinite) {
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
    options.skip_nonfinite = skip_nonfinite;
    return options;
}

}  // namespace

Hyperparameter hyperparameter(const py::object& value, const char* name) {
    if (!PyCallable_Check(value.ptr())) return real_number(value, name);
    return [function = share(value), name](std::int64_t step) {
        const Locked locked;
        return real_number(call(*function, py::int_(step)), name);
    };
}

void register_rules(py::module_& module) {
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

    module.def(
        "adafactor",
        [](double beta_2_decay, double epsilon_1, double epsilon_2, double clip_threshold) {
            return PyRule{Adafactor{beta_2_decay, epsilon_1, epsilon_2, clip_threshold}};
        },
        py::kw_only(), py::arg("beta_2_decay"), py::arg("epsilon_1"), py::arg("epsilon_2"), py::arg("clip_threshold"));
    module.def(
        "muon",
        [](const py::object& product, const std::string& dtype, double adam_beta_1, double adam_beta_2,
           double adam_weight_decay, double epsilon, double weight_decay, const py::object& excludes, double muon_a,
           double muon_b, double muon_c, double adam_lr_ratio, double momentum, std::int64_t ns_steps, bool nesterov,
           std::optional<double> rms_rate) {
            return PyRule{Muon{matrix_product(product), dtype == "bfloat16" ? DType::bfloat16 : DType::float32,
                               adam_beta_1, adam_beta_2, adam_weight_decay, epsilon, weight_decay, exclusion(excludes),
                               muon_a, muon_b, muon_c, adam_lr_ratio, momentum, ns_steps, nesterov, rms_rate}};
        },
        py::kw_only(), py::arg("matrix_product"), py::arg("product_dtype"), py::arg("adam_beta_1"),
        py::arg("adam_beta_2"), py::arg("adam_weight_decay"), py::arg("epsilon"), py::arg("weight_decay"),
        py::arg("excludes"), py::arg("muon_a"), py::arg("muon_b"), py::arg("muon_c"), py::arg("adam_lr_ratio"),
        py::arg("momentum"), py::arg("ns_steps"), py::arg("nesterov"), py::arg("rms_rate"));

    py::class_<Options>(module, "Options")
        .def(py::init(&make_options), py::kw_only(), py::arg("learning_rate"), py::arg("weight_decay"),
             py::arg("clipnorm"), py::arg("clipvalue"), py::arg("global_clipnorm"), py::arg("use_ema"),
             py::arg("ema_momentum"), py::arg("ema_overwrite_frequency"), py::arg("loss_scale_factor"),
             py::arg("gradient_accumulation_steps"), py::arg("skip_nonfinite"));
}

}  // namespace fusedopt::python
