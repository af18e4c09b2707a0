// The formulas in PyTorch's numbers once more, operation by operation. Weight decay is coupled, g + weight_decay w.
#pragma once

#include <cmath>
#include <optional>
#include <string>
#include <vector>

#include "formulas.hpp"

namespace reference {

inline std::vector<std::string> slot_names(const fusedopt::TorchSGD& rule) {
    return rule.momentum == 0.0 ? std::vector<std::string>{} : std::vector<std::string>{"momentum_buffer"};
}

inline std::vector<std::string> slot_names(const fusedopt::TorchRMSprop& rule) {
    std::vector<std::string> names = {"square_avg"};
    if (rule.momentum > 0.0) names.push_back("momentum_buffer");
    if (rule.centered) names.push_back("grad_avg");
    return names;
}

inline std::vector<std::string> slot_names(const fusedopt::TorchAdagrad&) {
    return {"sum"};
}

inline std::vector<std::string> slot_names(const fusedopt::TorchAdadelta&) {
    return {"square_avg", "acc_delta"};
}

inline std::vector<std::string> slot_names(const fusedopt::TorchAdamax&) {
    return {"exp_avg", "exp_inf"};
}

inline std::vector<std::string> slot_names(const fusedopt::TorchNAdam&) {
    return {"exp_avg", "exp_avg_sq"};
}

inline std::vector<std::string> torch_adam_slots(bool amsgrad) {
    std::vector<std::string> names = {"exp_avg", "exp_avg_sq"};
    if (amsgrad) names.push_back("max_exp_avg_sq");
    return names;
}
inline std::vector<std::string> slot_names(const fusedopt::TorchAdam& rule) {
    return torch_adam_slots(rule.amsgrad);
}
inline std::vector<std::string> slot_names(const fusedopt::TorchAdamW& rule) {
    return torch_adam_slots(rule.amsgrad);
}

inline double default_rate(const fusedopt::TorchRMSprop&) {
    return 0.01;
}
inline double default_rate(const fusedopt::TorchAdagrad&) {
    return 0.01;
}
inline double default_rate(const fusedopt::TorchAdadelta&) {
    return 1.0;
}
inline double default_rate(const fusedopt::TorchAdamax&) {
    return 0.002;
}
inline double default_rate(const fusedopt::TorchNAdam&) {
    return 0.002;
}

inline double initial_value(const fusedopt::TorchAdagrad& rule, std::size_t) {
    return rule.initial_accumulator_value;
}

template <class T>
auto formula(const fusedopt::TorchSGD& rule, const Now& now) {
    const bool begins = now.t == 1.0;
    const T lr = static_cast<T>(now.rate), decay = static_cast<T>(rule.weight_decay);
    const T mu = static_cast<T>(rule.momentum), keep = begins ? T(0) : mu;
    const T take = begins ? T(1) : static_cast<T>(1.0 - rule.dampening);
    return [=](T& w, T g, T* slots) {
        if (decay != 0) g = g + decay * w;
        if (mu == 0) {
            w = w - lr * g;
            return;
        }
        T& m = slots[0];
        m = keep * m + take * g;
        w = w - lr * (rule.nesterov ? g + mu * m : m);
    };
}

template <class T>
auto formula(const fusedopt::TorchRMSprop& rule, const Now& now) {
    const T lr = static_cast<T>(now.rate), decay = static_cast<T>(rule.weight_decay);
    const T rho = static_cast<T>(rule.rho), one_minus_rho = static_cast<T>(1.0 - rule.rho);
    const T mu = static_cast<T>(rule.momentum), epsilon = static_cast<T>(rule.epsilon);
    return [=](T& w, T gradient, T* slots) {
        const T g = decay != 0 ? gradient + decay * w : gradient;
        T& v = slots[0];
        T& p = slots[1];
        T& a = slots[mu > 0 ? 2 : 1];
        v = rho * v + one_minus_rho * (g * g);
        T variance = v;
        if (rule.centered) {
            a = a + (g - a) * one_minus_rho;
            variance = v - a * a;
            if (variance < 0) variance = 0;
        }
        const T d = std::sqrt(variance) + epsilon;
        if (mu > 0) {
            p = mu * p + g / d;
            w = w - lr * p;
        } else {
            w = w - (lr * g) / d;
        }
    };
}

template <class T, class AdamLike>
auto torch_adam(const AdamLike& rule, const Now& now, double weight_decay) {
    const double beta_1 = rule.beta_1.value(), beta_2 = rule.beta_2.value();
    const double root = std::sqrt(1.0 - std::pow(beta_2, now.t));
    const T alpha = static_cast<T>(now.rate * root / (1.0 - std::pow(beta_1, now.t)));
    const T epsilon = static_cast<T>(rule.epsilon * root), decay = static_cast<T>(weight_decay);
    const T one_minus_beta_1 = static_cast<T>(1.0 - beta_1), one_minus_beta_2 = static_cast<T>(1.0 - beta_2);
    return [=, amsgrad = rule.amsgrad](T& w, T g, T* slots) {
        if (decay != 0) g = g + decay * w;
        T& m = slots[0];
        T& v = slots[1];
        T& u = slots[2];
        m = m + (g - m) * one_minus_beta_1;
        v = v + (g * g - v) * one_minus_beta_2;
        if (amsgrad) u = larger(u, v);
        w = w - (alpha * m) / (std::sqrt(amsgrad ? u : v) + epsilon);
    };
}
template <class T>
auto formula(const fusedopt::TorchAdam& rule, const Now& now) {
    return torch_adam<T>(rule, now, rule.decoupled_weight_decay ? 0.0 : rule.weight_decay);
}
template <class T>
auto formula(const fusedopt::TorchAdamW& rule, const Now& now) {
    return torch_adam<T>(rule, now, 0.0);
}

template <class T>
auto formula(const fusedopt::TorchAdagrad& rule, const Now& now) {
    const T alpha = static_cast<T>(now.rate / (1.0 + (now.t - 1.0) * rule.lr_decay));
    const T epsilon = static_cast<T>(rule.epsilon), decay = static_cast<T>(rule.weight_decay);
    return [=](T& w, T gradient, T* slots) {
        const T g = decay != 0 ? gradient + decay * w : gradient;
        T& a = slots[0];
        a = a + g * g;
        w = w - (alpha * g) / (std::sqrt(a) + epsilon);
    };
}

template <class T>
auto formula(const fusedopt::TorchAdadelta& rule, const Now& now) {
    const T lr = static_cast<T>(now.rate), epsilon = static_cast<T>(rule.epsilon);
    const T rho = static_cast<T>(rule.rho), one_minus_rho = static_cast<T>(1.0 - rule.rho);
    const T decay = static_cast<T>(rule.weight_decay);
    return [=](T& w, T g, T* slots) {
        if (decay != 0) g = g + decay * w;
        T& e = slots[0];
        T& x = slots[1];
        e = rho * e + one_minus_rho * (g * g);
        const T d = std::sqrt((x + epsilon) / (e + epsilon)) * g;
        x = rho * x + one_minus_rho * (d * d);
        w = w - lr * d;
    };
}

template <class T>
auto formula(const fusedopt::TorchAdamax& rule, const Now& now) {
    const double beta_1 = rule.beta_1.value();
    const T alpha = static_cast<T>(now.rate / (1.0 - std::pow(beta_1, now.t)));
    const T one_minus_beta_1 = static_cast<T>(1.0 - beta_1), beta_2 = static_cast<T>(rule.beta_2.value());
    const T epsilon = static_cast<T>(rule.epsilon), decay = static_cast<T>(rule.weight_decay);
    return [=](T& w, T gradient, T* slots) {
        const T g = decay != 0 ? gradient + decay * w : gradient;
        T& m = slots[0];
        T& u = slots[1];
        m = m + (g - m) * one_minus_beta_1;
        u = larger(beta_2 * u, std::fabs(g) + epsilon);
        w = w - (alpha * m) / u;
    };
}

/// TorchNAdam's momentum factor of update t.
inline double nadam_factor(const fusedopt::TorchNAdam& rule, double t) {
    return rule.beta_1.value() * (1.0 - 0.5 * std::pow(0.96, t * rule.momentum_decay));
}

template <class T>
auto formula(const fusedopt::TorchNAdam& rule, const Now& now) {
    const double factor = nadam_factor(rule, now.t), next = nadam_factor(rule, now.t + 1.0);
    const double c = 1.0 / (1.0 - std::pow(rule.beta_2.value(), now.t));
    const T a = static_cast<T>(now.rate * next / (1.0 - now.product * next));
    const T b = static_cast<T>(now.rate * (1.0 - factor) / (1.0 - now.product));
    const T one_minus_beta_1 = static_cast<T>(1.0 - rule.beta_1.value());
    const T one_minus_beta_2 = static_cast<T>(1.0 - rule.beta_2.value());
    const T epsilon = static_cast<T>(rule.epsilon);
    const T decay = static_cast<T>(rule.decoupled_weight_decay ? 0.0 : rule.weight_decay);
    return [=](T& w, T g, T* slots) {
        if (decay != 0) g = g + decay * w;
        T& m = slots[0];
        T& v = slots[1];
        m = m + (g - m) * one_minus_beta_1;
        v = v + (g * g - v) * one_minus_beta_2;
        w = w - (a * m + b * g) / (square_root_of(c, v) + epsilon);
    };
}

/// The decoupled weight decay that is a hyperparameter of a rule.
template <class AnyRule>
double decoupled_decay(const AnyRule&) {
    return 0.0;
}
inline double decoupled_decay(const fusedopt::AdamW& rule) {
    return rule.weight_decay;
}
inline double decoupled_decay(const fusedopt::Muon& rule) {
    return rule.adam_weight_decay;
}
inline double decoupled_decay(const fusedopt::TorchAdamW& rule) {
    return rule.weight_decay;
}
inline double decoupled_decay(const fusedopt::TorchAdam& rule) {
    return rule.decoupled_weight_decay ? rule.weight_decay : 0.0;
}
inline double decoupled_decay(const fusedopt::TorchNAdam& rule) {
    return rule.decoupled_weight_decay ? rule.weight_decay : 0.0;
}

/// The factor by which a rule's number moves in update t; none if it keeps no number.
template <class AnyRule>
std::optional<double> factor_of_product(const AnyRule& rule, double t) {
    if constexpr (requires { nadam_factor(rule, t); }) {
        return nadam_factor(rule, t);
    } else {
        return std::nullopt;
    }
}

}  // namespace reference
