// The update rules and their hyperparameters, with Keras 3's names and defaults. A rule has a name and a table of its
// hyperparameters, `fields()`.
// One file, though long: who chooses a rule sees all of them, one short struct each.
#pragma once

#include <fusedopt/language.hpp>

#include <concepts>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include <fusedopt/fields.hpp>
#include <fusedopt/own_rule.hpp>
#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// A number, or a function of the step counter that gives one. A function is called exactly once in each step that
/// updates the variables, before anything is written; what it throws leaves everything as it was.
class Hyperparameter {
public:
    using Function = std::function<double(std::int64_t step)>;

    template <class Number>
        requires std::integral<Number> || std::floating_point<Number>
    Hyperparameter(Number value) : value_(static_cast<double>(value)) {}  // NOLINT: implicit on purpose

    template <class Callable>
        requires std::invocable<Callable&, std::int64_t>
    Hyperparameter(Callable function) : function_(std::move(function)) {}  // NOLINT: implicit on purpose

    bool is_number() const { return !function_; }
    double value() const { return value_; }
    double operator()(std::int64_t step) const { return function_ ? function_(step) : value_; }

private:
    double value_ = 0.0;
    Function function_;
};

/// Gradient descent, with momentum and Nesterov's momentum. Default learning rate 0.01.
struct SGD {
    double momentum = 0.0;
    bool nesterov = false;

    static constexpr const char* name = "SGD";
    static constexpr auto fields() {
        return std::tuple(Field("momentum", &SGD::momentum, domains::from_0_to_1), Field("nesterov", &SGD::nesterov));
    }
};

// Some rules are `rowwise` on request. A variable of two or more dimensions then keeps one second moment for each row,
// that is, for each index of its first dimension, and the mean of g^2 over the row takes the place of g^2.

/// RMSprop, with plain momentum and the centered form, which cannot be rowwise.
struct RMSprop {
    double rho = 0.9;
    double momentum = 0.0;
    double epsilon = 1e-7;
    bool centered = false;
    bool rowwise = false;

    static constexpr const char* name = "RMSprop";
    static constexpr auto fields() {
        return std::tuple(Field("rho", &RMSprop::rho, domains::from_0_below_1),
                          Field("momentum", &RMSprop::momentum, domains::from_0_to_1),
                          Field("epsilon", &RMSprop::epsilon, domains::normal), Field("centered", &RMSprop::centered),
                          Field("rowwise", &RMSprop::rowwise));
    }
};

/// Adam, with AMSGrad.
struct Adam {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-7;
    bool amsgrad = false;
    bool rowwise = false;

    static constexpr const char* name = "Adam";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &Adam::beta_1, domains::from_0_below_1),
                          Field("beta_2", &Adam::beta_2, domains::from_0_below_1),
                          Field("epsilon", &Adam::epsilon, domains::normal), Field("amsgrad", &Adam::amsgrad),
                          Field("rowwise", &Adam::rowwise));
    }
};

/// Adam with decoupled weight decay.
struct AdamW {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-7;
    bool amsgrad = false;
    double weight_decay = 0.004;
    bool rowwise = false;

    static constexpr const char* name = "AdamW";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &AdamW::beta_1, domains::from_0_below_1),
                          Field("beta_2", &AdamW::beta_2, domains::from_0_below_1),
                          Field("epsilon", &AdamW::epsilon, domains::normal), Field("amsgrad", &AdamW::amsgrad),
                          Field("weight_decay", &AdamW::weight_decay, domains::not_negative),
                          Field("rowwise", &AdamW::rowwise));
    }
};

/// Adagrad.
struct Adagrad {
    double initial_accumulator_value = 0.1;
    double epsilon = 1e-7;
    bool rowwise = false;

    static constexpr const char* name = "Adagrad";
    static constexpr auto fields() {
        return std::tuple(
            Field("initial_accumulator_value", &Adagrad::initial_accumulator_value, domains::not_negative),
            Field("epsilon", &Adagrad::epsilon, domains::normal), Field("rowwise", &Adagrad::rowwise));
    }
};

/// Adadelta.
struct Adadelta {
    double rho = 0.95;
    double epsilon = 1e-7;

    static constexpr const char* name = "Adadelta";
    static constexpr auto fields() {
        return std::tuple(Field("rho", &Adadelta::rho, domains::from_0_below_1),
                          Field("epsilon", &Adadelta::epsilon, domains::normal));
    }
};

/// Adamax, Adam with the infinity norm.
struct Adamax {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-7;

    static constexpr const char* name = "Adamax";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &Adamax::beta_1, domains::from_0_below_1),
                          Field("beta_2", &Adamax::beta_2, domains::from_0_below_1),
                          Field("epsilon", &Adamax::epsilon, domains::normal));
    }
};

/// Nadam, Adam with Nesterov's momentum.
struct Nadam {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-7;
    bool rowwise = false;

    static constexpr const char* name = "Nadam";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &Nadam::beta_1, domains::from_0_below_1),
                          Field("beta_2", &Nadam::beta_2, domains::from_0_below_1),
                          Field("epsilon", &Nadam::epsilon, domains::normal), Field("rowwise", &Nadam::rowwise));
    }
};

/// Lion, the sign of a momentum.
struct Lion {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.99;

    static constexpr const char* name = "Lion";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &Lion::beta_1, domains::above_0_to_1),
                          Field("beta_2", &Lion::beta_2, domains::from_0_below_1));
    }
};

/// Ftrl-proximal. A learning_rate_power of -0.5 runs at full speed; others call pow for each element. A learning rate
/// of 0, by which the rule cannot divide, leaves weights and slots as they are.
struct Ftrl {
    double learning_rate_power = -0.5;
    double initial_accumulator_value = 0.1;
    double l1_regularization_strength = 0.0;
    double l2_regularization_strength = 0.0;
    double l2_shrinkage_regularization_strength = 0.0;
    double beta = 0.0;

    static constexpr const char* name = "Ftrl";
    static constexpr auto fields() {
        return std::tuple(Field("learning_rate_power", &Ftrl::learning_rate_power, domains::not_positive),
                          Field("initial_accumulator_value", &Ftrl::initial_accumulator_value, domains::not_negative),
                          Field("l1_regularization_strength", &Ftrl::l1_regularization_strength, domains::not_negative),
                          Field("l2_regularization_strength", &Ftrl::l2_regularization_strength, domains::not_negative),
                          Field("l2_shrinkage_regularization_strength", &Ftrl::l2_shrinkage_regularization_strength,
                                domains::not_negative),
                          Field("beta", &Ftrl::beta, domains::not_negative));
    }
};

/// LAMB, Adam with a trust ratio for each variable.
struct Lamb {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-7;

    static constexpr const char* name = "Lamb";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &Lamb::beta_1, domains::from_0_below_1),
                          Field("beta_2", &Lamb::beta_2, domains::from_0_below_1),
                          Field("epsilon", &Lamb::epsilon, domains::normal));
    }
};

/// AdamW without a schedule: the variables are where gradients are taken.
struct ScheduleFreeAdamW {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-8;
    std::int64_t warmup_steps = 0;

    static constexpr const char* name = "ScheduleFreeAdamW";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &ScheduleFreeAdamW::beta_1, domains::above_0_below_1),
                          Field("beta_2", &ScheduleFreeAdamW::beta_2, domains::from_0_below_1),
                          Field("epsilon", &ScheduleFreeAdamW::epsilon, domains::normal),
                          Field("warmup_steps", &ScheduleFreeAdamW::warmup_steps, domains::integer_from_0));
    }
};

/// Adafactor: of variables with two dimensions or more only the rows' and columns' mean squares are kept.
struct Adafactor {
    double beta_2_decay = -0.8;
    double epsilon_1 = 1e-30;
    double epsilon_2 = 1e-3;
    double clip_threshold = 1.0;

    static constexpr const char* name = "Adafactor";
    static constexpr auto fields() {
        return std::tuple(Field("beta_2_decay", &Adafactor::beta_2_decay, domains::not_positive),
                          Field("epsilon_1", &Adafactor::epsilon_1, domains::not_negative),
                          Field("epsilon_2", &Adafactor::epsilon_2, domains::not_negative),
                          Field("clip_threshold", &Adafactor::clip_threshold, domains::positive));
    }
};

/// Muon: momentum made orthogonal for matrices, Adam for everything else.
struct Muon {
    /// product = a b, for two-dimensional views of one dtype, `product_dtype` or float64. `a` and `b` may be
    /// transposed; `product` is C-contiguous and overlaps neither. Of a symmetric product of 512 rows or more only the
    /// part up to the diagonal is asked for, in panels of rows. What it throws leaves everything as it was. A product
    /// that it has not written makes the step throw std::invalid_argument.
    using MatrixProduct = std::function<void(const Tensor& a, const Tensor& b, const Tensor& product)>;

    /// True for a variable, by its name, that Adam is to update although it is a matrix.
    using Exclusion = std::function<bool(const std::string& name)>;

    /// Keras's choice: names in which one of these regular expressions (ECMAScript's) is found, and names that contain
    /// "embedding" in any case. <fusedopt/excluding.hpp> defines it.
    template <class Char = char>
    static Exclusion excluding(const std::vector<std::string>& exclude_layers, bool exclude_embeddings = true);

    /// Keras's default: names that contain "embedding" in any case.
    static bool excludes_embeddings(const std::string& name);

    MatrixProduct matrix_product;          // needed: of a BLAS, for example
    DType product_dtype = DType::float32;  // or bfloat16; float64 variables have products of float64
    double adam_beta_1 = 0.9;
    double adam_beta_2 = 0.999;
    double adam_weight_decay = 0.004;
    double epsilon = 1e-7;
    double weight_decay = 0.004;
    Exclusion excludes = excludes_embeddings;
    double muon_a = 3.4445;
    double muon_b = -4.775;
    double muon_c = 2.0315;
    double adam_lr_ratio = 1.0;
    double momentum = 0.95;
    std::int64_t ns_steps = 5;
    bool nesterov = true;
    std::optional<double> rms_rate = 0.2;

    static constexpr const char* name = "Muon";
    static constexpr auto fields() {
        return std::tuple(Field("matrix_product", &Muon::matrix_product), Field("product_dtype", &Muon::product_dtype),
                          Field("adam_beta_1", &Muon::adam_beta_1, domains::from_0_below_1),
                          Field("adam_beta_2", &Muon::adam_beta_2, domains::from_0_below_1),
                          Field("adam_weight_decay", &Muon::adam_weight_decay, domains::not_negative),
                          Field("epsilon", &Muon::epsilon, domains::normal),
                          Field("weight_decay", &Muon::weight_decay, domains::not_negative),
                          Field("excludes", &Muon::excludes), Field("muon_a", &Muon::muon_a, domains::finite),
                          Field("muon_b", &Muon::muon_b, domains::finite),
                          Field("muon_c", &Muon::muon_c, domains::finite),
                          Field("adam_lr_ratio", &Muon::adam_lr_ratio, domains::not_negative),
                          Field("momentum", &Muon::momentum, domains::from_0_to_1),
                          Field("ns_steps", &Muon::ns_steps, domains::integer_from_1),
                          Field("nesterov", &Muon::nesterov), Field("rms_rate", &Muon::rms_rate, domains::positive));
    }
};

/// Yogi, Adam whose second moment moves by the gradient's square. Not one of Keras's rules; defaults, and where m and v
/// start, are those of optax. Default learning rate 0.01.
struct Yogi {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-3;
    double initial_accumulator_value = 1e-6;
    bool rowwise = false;

    static constexpr const char* name = "Yogi";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &Yogi::beta_1, domains::from_0_below_1),
                          Field("beta_2", &Yogi::beta_2, domains::from_0_below_1),
                          Field("epsilon", &Yogi::epsilon, domains::normal),
                          Field("initial_accumulator_value", &Yogi::initial_accumulator_value, domains::not_negative),
                          Field("rowwise", &Yogi::rowwise));
    }
};

// Eight rules in PyTorch's numbers (torch/optim of PyTorch 2.13), for programs that go on where its optimizers stopped.
// Names are Keras's, but slots have PyTorch's names. A weight_decay is coupled: the gradient takes it in before
// anything else, g <- g + weight_decay w. No variable can be excluded from it. If it is decoupled, that is said.

/// SGD. With momentum, the first gradient of a variable is its buffer. Default learning rate 0.001.
struct TorchSGD {
    double momentum = 0.0;
    double dampening = 0.0;
    bool nesterov = false;
    double weight_decay = 0.0;

    static constexpr const char* name = "TorchSGD";
    static constexpr auto fields() {
        return std::tuple(Field("momentum", &TorchSGD::momentum, domains::not_negative),
                          Field("dampening", &TorchSGD::dampening, domains::finite),
                          Field("nesterov", &TorchSGD::nesterov),
                          Field("weight_decay", &TorchSGD::weight_decay, domains::not_negative));
    }
};

/// RMSprop: epsilon is added to the root, and the learning rate is outside the momentum. `rho` is PyTorch's alpha.
/// Default learning rate 0.01.
struct TorchRMSprop {
    double rho = 0.99;
    double momentum = 0.0;
    double epsilon = 1e-8;
    bool centered = false;
    double weight_decay = 0.0;

    static constexpr const char* name = "TorchRMSprop";
    static constexpr auto fields() {
        return std::tuple(Field("rho", &TorchRMSprop::rho, domains::not_negative),
                          Field("momentum", &TorchRMSprop::momentum, domains::not_negative),
                          Field("epsilon", &TorchRMSprop::epsilon, domains::not_negative),
                          Field("centered", &TorchRMSprop::centered),
                          Field("weight_decay", &TorchRMSprop::weight_decay, domains::not_negative));
    }
};

/// Adam: epsilon is added to the corrected root. decoupled_weight_decay makes it TorchAdamW.
struct TorchAdam {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-8;
    bool amsgrad = false;
    double weight_decay = 0.0;
    bool decoupled_weight_decay = false;

    static constexpr const char* name = "TorchAdam";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &TorchAdam::beta_1, domains::from_0_below_1),
                          Field("beta_2", &TorchAdam::beta_2, domains::from_0_below_1),
                          Field("epsilon", &TorchAdam::epsilon, domains::not_negative),
                          Field("amsgrad", &TorchAdam::amsgrad),
                          Field("weight_decay", &TorchAdam::weight_decay, domains::not_negative),
                          Field("decoupled_weight_decay", &TorchAdam::decoupled_weight_decay));
    }
};

/// The same with decoupled weight decay.
struct TorchAdamW {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-8;
    bool amsgrad = false;
    double weight_decay = 0.01;

    static constexpr const char* name = "TorchAdamW";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &TorchAdamW::beta_1, domains::from_0_below_1),
                          Field("beta_2", &TorchAdamW::beta_2, domains::from_0_below_1),
                          Field("epsilon", &TorchAdamW::epsilon, domains::not_negative),
                          Field("amsgrad", &TorchAdamW::amsgrad),
                          Field("weight_decay", &TorchAdamW::weight_decay, domains::not_negative));
    }
};

/// Adagrad: epsilon is added to the root, and the learning rate is divided by 1 + (t - 1) lr_decay. Default learning
/// rate 0.01.
struct TorchAdagrad {
    double lr_decay = 0.0;
    double initial_accumulator_value = 0.0;
    double epsilon = 1e-10;
    double weight_decay = 0.0;

    static constexpr const char* name = "TorchAdagrad";
    static constexpr auto fields() {
        return std::tuple(
            Field("lr_decay", &TorchAdagrad::lr_decay, domains::not_negative),
            Field("initial_accumulator_value", &TorchAdagrad::initial_accumulator_value, domains::not_negative),
            Field("epsilon", &TorchAdagrad::epsilon, domains::not_negative),
            Field("weight_decay", &TorchAdagrad::weight_decay, domains::not_negative));
    }
};

/// Adadelta. Default learning rate 1.
struct TorchAdadelta {
    double rho = 0.9;
    double epsilon = 1e-6;
    double weight_decay = 0.0;

    static constexpr const char* name = "TorchAdadelta";
    static constexpr auto fields() {
        return std::tuple(Field("rho", &TorchAdadelta::rho, domains::from_0_to_1),
                          Field("epsilon", &TorchAdadelta::epsilon, domains::not_negative),
                          Field("weight_decay", &TorchAdadelta::weight_decay, domains::not_negative));
    }
};

/// Adamax: epsilon is added to the gradient's magnitude. Default learning rate 0.002.
struct TorchAdamax {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-8;
    double weight_decay = 0.0;

    static constexpr const char* name = "TorchAdamax";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &TorchAdamax::beta_1, domains::from_0_below_1),
                          Field("beta_2", &TorchAdamax::beta_2, domains::from_0_below_1),
                          Field("epsilon", &TorchAdamax::epsilon, domains::not_negative),
                          Field("weight_decay", &TorchAdamax::weight_decay, domains::not_negative));
    }
};

/// NAdam: the momentum of step t is beta_1 (1 - 0.96^(t momentum_decay) / 2). Its weight decay is coupled or decoupled.
/// Default learning rate 0.002.
struct TorchNAdam {
    Hyperparameter beta_1 = 0.9;
    Hyperparameter beta_2 = 0.999;
    double epsilon = 1e-8;
    double momentum_decay = 0.004;
    double weight_decay = 0.0;
    bool decoupled_weight_decay = false;

    static constexpr const char* name = "TorchNAdam";
    static constexpr auto fields() {
        return std::tuple(Field("beta_1", &TorchNAdam::beta_1, domains::from_0_below_1),
                          Field("beta_2", &TorchNAdam::beta_2, domains::from_0_below_1),
                          Field("epsilon", &TorchNAdam::epsilon, domains::not_negative),
                          Field("momentum_decay", &TorchNAdam::momentum_decay, domains::not_negative),
                          Field("weight_decay", &TorchNAdam::weight_decay, domains::not_negative),
                          Field("decoupled_weight_decay", &TorchNAdam::decoupled_weight_decay));
    }
};

using Rule = std::variant<SGD, RMSprop, Adam, AdamW, Adagrad, Adadelta, Adamax, Nadam, Lion, Ftrl, Lamb,
                          ScheduleFreeAdamW, Adafactor, Muon, Yogi, TorchSGD, TorchRMSprop, TorchAdam, TorchAdamW,
                          TorchAdagrad, TorchAdadelta, TorchAdamax, TorchNAdam, OwnRule>;

}  // namespace fusedopt
