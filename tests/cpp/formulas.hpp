// Every rule's formula once more, operation by operation in the order that the library promises.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "array.hpp"

namespace reference {

// slot_names(rule): in the order in which a formula takes the slots.

inline std::vector<std::string> slot_names(const fusedopt::SGD& rule) {
    return rule.momentum == 0.0 ? std::vector<std::string>{} : std::vector<std::string>{"momentum"};
}

inline std::vector<std::string> slot_names(const fusedopt::RMSprop& rule) {
    std::vector<std::string> names = {"velocity"};
    if (rule.momentum > 0.0) names.push_back("momentum");
    if (rule.centered) names.push_back("average_gradient");
    return names;
}

inline std::vector<std::string> slot_names(const fusedopt::Adagrad&) {
    return {"accumulator"};
}

inline std::vector<std::string> slot_names(const fusedopt::Adadelta&) {
    return {"accumulated_grad", "accumulated_delta_var"};
}

inline std::vector<std::string> slot_names(const fusedopt::Adamax&) {
    return {"momentum", "norm"};
}

inline std::vector<std::string> slot_names(const fusedopt::Lion&) {
    return {"momentum"};
}

inline std::vector<std::string> slot_names(const fusedopt::Ftrl&) {
    return {"accumulator", "linear"};
}

inline std::vector<std::string> slot_names(const fusedopt::Adafactor&) {
    return {"velocity", "r", "c"};
}

template <class AdamLike>
std::vector<std::string> slot_names(const AdamLike& rule) {
    std::vector<std::string> names = {"momentum", "velocity"};
    if constexpr (requires { rule.amsgrad; }) {
        if (rule.amsgrad) names.push_back("velocity_hat");
    }
    return names;
}

// default_rate(rule): the learning rate if the options have none.

template <class AnyRule>
double default_rate(const AnyRule&) {
    return 0.001;
}
inline double default_rate(const fusedopt::SGD&) {
    return 0.01;
}
inline double default_rate(const fusedopt::ScheduleFreeAdamW&) {
    return 0.0025;
}

// initial_value(rule, slot): what a slot starts at.

template <class AnyRule>
double initial_value(const AnyRule&, std::size_t) {
    return 0.0;
}
inline double initial_value(const fusedopt::Adagrad& rule, std::size_t) {
    return rule.initial_accumulator_value;
}
inline double initial_value(const fusedopt::Ftrl& rule, std::size_t slot) {
    return slot == 0 ? rule.initial_accumulator_value : 0.0;
}

/// NaN if either is, as np.maximum.
template <class T>
T larger(T a, T b) {
    return a > b || std::isnan(a) ? a : b;
}

/// One update: its learning rate, its number from 1, and Nadam's product of momentum factors so far.
struct Now {
    double rate, t;
    double product = 1.0;
    std::optional<double> mean_square = {};  // of a row, if it has one second moment
};

/// What a second moment moves by: the square of a gradient's element, or the mean of its row's.
template <class T>
auto squaring(const Now& now) {
    return [mean = now.mean_square](T g) { return mean ? static_cast<T>(*mean) : g * g; };
}

template <class T>
T square_root_of(double scalar, T v) {
    return std::sqrt(static_cast<T>(scalar) * v);
}

// formula<T>(rule, now) is what one element goes through: (w, g, slots).

template <class T>
auto formula(const fusedopt::SGD& rule, const Now& now) {
    const T lr = static_cast<T>(now.rate), mu = static_cast<T>(rule.momentum);
    return [=](T& w, T g, T* slots) {
        if (rule.momentum == 0.0) {
            w = w - lr * g;
            return;
        }
        T& m = slots[0];
        m = mu * m - lr * g;
        w = rule.nesterov ? w + (mu * m - lr * g) : w + m;
    };
}

template <class T>
auto formula(const fusedopt::RMSprop& rule, const Now& now) {
    const auto square = squaring<T>(now);
    const T lr = static_cast<T>(now.rate), mu = static_cast<T>(rule.momentum);
    const T rho = static_cast<T>(rule.rho), one_minus_rho = static_cast<T>(1.0 - rule.rho);
    const T epsilon = static_cast<T>(rule.epsilon);
    return [=](T& w, T g, T* slots) {
        T& v = slots[0];
        T& p = slots[1];
        T& a = slots[rule.momentum > 0.0 ? 2 : 1];
        v = rho * v + one_minus_rho * square(g);
        T denominator = v;
        if (rule.centered) {
            a = rho * a + one_minus_rho * g;
            denominator = v - a * a;
            if (denominator < 0) denominator = 0;
        }
        const T step = (lr * g) / std::sqrt(denominator + epsilon);
        if (rule.momentum > 0.0) {
            p = mu * p + step;
            w = w - p;
        } else {
            w = w - step;
        }
    };
}

template <class T, class AdamLike>
auto formula(const AdamLike& rule, const Now& now) {
    const auto square = squaring<T>(now);
    const double beta_1 = rule.beta_1.value(), beta_2 = rule.beta_2.value();
    const T alpha =
        static_cast<T>(now.rate * std::sqrt(1.0 - std::pow(beta_2, now.t)) / (1.0 - std::pow(beta_1, now.t)));
    const T one_minus_beta_1 = static_cast<T>(1.0 - beta_1), one_minus_beta_2 = static_cast<T>(1.0 - beta_2);
    const T epsilon = static_cast<T>(rule.epsilon);
    return [=, amsgrad = rule.amsgrad](T& w, T g, T* slots) {
        T& m = slots[0];
        T& v = slots[1];
        T& u = slots[2];
        m = m + (g - m) * one_minus_beta_1;
        v = v + (square(g) - v) * one_minus_beta_2;
        if (amsgrad) u = larger(u, v);
        w = w - (alpha * m) / (std::sqrt(amsgrad ? u : v) + epsilon);
    };
}

template <class T>
auto formula(const fusedopt::Adagrad& rule, const Now& now) {
    const auto square = squaring<T>(now);
    const T lr = static_cast<T>(now.rate), epsilon = static_cast<T>(rule.epsilon);
    return [=](T& w, T g, T* slots) {
        T& a = slots[0];
        a = a + square(g);
        w = w - (lr * g) / std::sqrt(a + epsilon);
    };
}

template <class T>
auto formula(const fusedopt::Adadelta& rule, const Now& now) {
    const T lr = static_cast<T>(now.rate), epsilon = static_cast<T>(rule.epsilon);
    const T rho = static_cast<T>(rule.rho), one_minus_rho = static_cast<T>(1.0 - rule.rho);
    return [=](T& w, T g, T* slots) {
        T& e = slots[0];
        T& x = slots[1];
        e = rho * e + one_minus_rho * (g * g);
        const T d = std::sqrt((x + epsilon) / (e + epsilon)) * g;
        x = rho * x + one_minus_rho * (d * d);
        w = w - lr * d;
    };
}

template <class T>
auto formula(const fusedopt::Adamax& rule, const Now& now) {
    const double beta_1 = rule.beta_1.value();
    const T alpha = static_cast<T>(now.rate / (1.0 - std::pow(beta_1, now.t)));
    const T one_minus_beta_1 = static_cast<T>(1.0 - beta_1), beta_2 = static_cast<T>(rule.beta_2.value());
    const T epsilon = static_cast<T>(rule.epsilon);
    return [=](T& w, T g, T* slots) {
        T& m = slots[0];
        T& u = slots[1];
        m = m + (g - m) * one_minus_beta_1;
        u = larger(beta_2 * u, std::fabs(g));
        w = w - (alpha * m) / (u + epsilon);
    };
}

inline double default_rate(const fusedopt::Yogi&) {
    return 0.01;
}
inline double initial_value(const fusedopt::Yogi& rule, std::size_t) {
    return rule.initial_accumulator_value;
}
template <class T>
auto formula(const fusedopt::Yogi& rule, const Now& now) {
    const auto square = squaring<T>(now);
    const double beta_1 = rule.beta_1.value(), beta_2 = rule.beta_2.value();
    const T alpha = static_cast<T>(now.rate / (1.0 - std::pow(beta_1, now.t)));
    const double c = 1.0 / (1.0 - std::pow(beta_2, now.t));
    const T one_minus_beta_1 = static_cast<T>(1.0 - beta_1), one_minus_beta_2 = static_cast<T>(1.0 - beta_2);
    const T epsilon = static_cast<T>(rule.epsilon);
    return [=](T& w, T g, T* slots) {
        T& m = slots[0];
        T& v = slots[1];
        m = m + (g - m) * one_minus_beta_1;
        const T difference = v - square(g), move = one_minus_beta_2 * square(g);
        if (difference > 0) v = v - move;
        if (difference < 0) v = v + move;
        if (std::isnan(difference)) v = difference;
        w = w - (alpha * m) / (square_root_of(c, v) + epsilon);
    };
}

/// Nadam's momentum factor of update t.
inline double nadam_factor(const fusedopt::Nadam& rule, double t) {
    return rule.beta_1.value() * (1.0 - 0.5 * std::pow(0.96, t));
}

template <class T>
auto formula(const fusedopt::Nadam& rule, const Now& now) {
    const auto square = squaring<T>(now);
    const double factor = nadam_factor(rule, now.t), next = nadam_factor(rule, now.t + 1.0);
    const double c = 1.0 / (1.0 - std::pow(rule.beta_2.value(), now.t));
    const T a = static_cast<T>(now.rate * next / (1.0 - now.product * next));
    const T b = static_cast<T>(now.rate * (1.0 - factor) / (1.0 - now.product));
    const T one_minus_beta_1 = static_cast<T>(1.0 - rule.beta_1.value());
    const T one_minus_beta_2 = static_cast<T>(1.0 - rule.beta_2.value());
    const T epsilon = static_cast<T>(rule.epsilon);
    return [=](T& w, T g, T* slots) {
        T& m = slots[0];
        T& v = slots[1];
        m = m + (g - m) * one_minus_beta_1;
        v = v + (square(g) - v) * one_minus_beta_2;
        w = w - (a * m + b * g) / (square_root_of(c, v) + epsilon);
    };
}

template <class T>
auto formula(const fusedopt::Lion& rule, const Now& now) {
    const double beta_1 = rule.beta_1.value(), beta_2 = rule.beta_2.value();
    const T lr = static_cast<T>(now.rate);
    return [=](T& w, T g, T* slots) {
        T& m = slots[0];
        const T c = static_cast<T>(beta_1) * m + static_cast<T>(1.0 - beta_1) * g;
        if (c > 0) w = w - lr;
        if (c < 0) w = w + lr;
        if (std::isnan(c)) w = c;
        m = static_cast<T>(beta_2) * m + static_cast<T>(1.0 - beta_2) * g;
    };
}

template <class T>
auto formula(const fusedopt::Ftrl& rule, const Now& now) {
    const bool has_rate = 1.0 / now.rate <= static_cast<double>(std::numeric_limits<T>::max());
    const T inverse_lr = static_cast<T>(1.0 / now.rate), l1 = static_cast<T>(rule.l1_regularization_strength);
    const T twice_l2 = static_cast<T>(2.0 * (rule.l2_regularization_strength + rule.beta / (2.0 * now.rate)));
    const T twice_shrinkage = static_cast<T>(2.0 * rule.l2_shrinkage_regularization_strength);
    const double p = -rule.learning_rate_power;
    const auto raised = [=](T x) { return p == 0.5 ? std::sqrt(x) : std::pow(x, static_cast<T>(p)); };
    return [=](T& w, T g, T* slots) {
        T& n = slots[0];
        T& z = slots[1];
        if (!has_rate && std::isfinite(g)) return;
        if (!has_rate) {
            w = n = z = std::numeric_limits<T>::quiet_NaN();
            return;
        }
        const T new_n = n + g * g;
        z = z + ((g + twice_shrinkage * w) - ((raised(new_n) - raised(n)) * inverse_lr) * w);
        const T denominator = raised(new_n) * inverse_lr + twice_l2;
        if (denominator != 0) w = ((z < -l1 ? -l1 : z > l1 ? l1 : z) - z) / denominator;
        n = new_n;
    };
}

template <class T>
auto formula(const fusedopt::ScheduleFreeAdamW& rule, const Now& now) {
    const double beta_1_value = rule.beta_1.value(), warmup = static_cast<double>(rule.warmup_steps);
    const double c = 1.0 / (1.0 - std::pow(rule.beta_2.value(), now.t));
    const T lr = static_cast<T>(now.rate * (warmup > 0.0 ? std::min(now.t / warmup, 1.0) : 1.0));
    const T beta_1 = static_cast<T>(beta_1_value), rest = static_cast<T>(1.0 - beta_1_value);
    const T inverse_beta_1 = static_cast<T>(1.0 / beta_1_value);
    const T one_minus_beta_2 = static_cast<T>(1.0 - rule.beta_2.value()), epsilon = static_cast<T>(rule.epsilon);
    const T take = static_cast<T>(1.0 / now.t), leave = static_cast<T>(1.0 - 1.0 / now.t);
    return [=](T& w, T g, T* slots) {
        T& z = slots[0];
        T& v = slots[1];
        v = v + (g * g - v) * one_minus_beta_2;
        const T new_z = z - (lr * g) / (square_root_of(c, v) + epsilon);
        const T x = leave * ((w - rest * z) * inverse_beta_1) + take * new_z;
        w = rest * new_z + beta_1 * x;
        z = new_z;
    };
}

/// Sums of 1024 elements of a row each, in 32 lanes that are added in halves; then the sums in their order.
inline double sum_of_squares(const Values& values, std::size_t row_size) {
    constexpr std::size_t tile = 1024, lanes = 32;
    double sum = 0.0;
    for (std::size_t begin = 0, end; begin < values.size(); begin = end) {
        end = std::min(begin + tile, begin - begin % row_size + row_size);
        double lane[lanes] = {};
        for (std::size_t i = begin; i < end; ++i) {
            lane[(i - begin) % lanes] += values[i] * values[i];
        }
        for (std::size_t half = lanes / 2; half > 0; half /= 2) {
            for (std::size_t j = 0; j < half; ++j) lane[j] += lane[j + half];
        }
        sum += lane[0];
    }
    return sum;
}

inline double sum_of_squares(const Values& values) {
    return sum_of_squares(values, values.size());
}

/// A rule on a whole variable, which is decayed already; numbers are of type T and kept in double.
template <class T, class Rule>
void apply_rule(const Rule& rule, const Now& now, Values& weight, const Values& gradient, Values* slots) {
    const auto update = formula<T>(rule, now);
    for (std::size_t k = 0; k < weight.size(); ++k) {
        T w = static_cast<T>(weight[k]), of_element[3];
        for (std::size_t s = 0; s < 3; ++s) of_element[s] = static_cast<T>(slots[s][k]);
        update(w, static_cast<T>(gradient[k]), of_element);
        for (std::size_t s = 0; s < 3; ++s) slots[s][k] = static_cast<double>(of_element[s]);
        weight[k] = static_cast<double>(w);
    }
}

/// LAMB takes two norms of the whole variable in between.
template <class T>
void apply_rule(const fusedopt::Lamb& rule, const Now& now, Values& weight, const Values& gradient, Values* slots) {
    const T a = static_cast<T>(1.0 / (1.0 - std::pow(rule.beta_1.value(), now.t)));
    const double c = 1.0 / (1.0 - std::pow(rule.beta_2.value(), now.t));
    const T one_minus_beta_1 = static_cast<T>(1.0 - rule.beta_1.value());
    const T one_minus_beta_2 = static_cast<T>(1.0 - rule.beta_2.value());
    Values direction(weight.size());
    for (std::size_t k = 0; k < weight.size(); ++k) {
        const T g = static_cast<T>(gradient[k]);
        T m = static_cast<T>(slots[0][k]), v = static_cast<T>(slots[1][k]);
        m = m + (g - m) * one_minus_beta_1;
        v = v + (g * g - v) * one_minus_beta_2;
        direction[k] = static_cast<double>((a * m) / (square_root_of(c, v) + static_cast<T>(rule.epsilon)));
        slots[0][k] = static_cast<double>(m);
        slots[1][k] = static_cast<double>(v);
    }
    const double size = sum_of_squares(weight), length = sum_of_squares(direction);
    const double ratio = size > 0.0 && length > 0.0 ? std::sqrt(size) / std::sqrt(length) : 1.0;
    const T step = static_cast<T>(ratio) * static_cast<T>(now.rate);
    for (std::size_t k = 0; k < weight.size(); ++k) {
        weight[k] = static_cast<double>(static_cast<T>(weight[k]) - step * static_cast<T>(direction[k]));
    }
}

/// Adafactor on a vector takes two root mean squares in between, summed in blocks of 64 tiles.
template <class T>
void apply_rule(const fusedopt::Adafactor& rule, const Now& now, Values& weight, const Values& gradient,
                Values* slots) {
    if (weight.empty()) return;
    const double b = 1.0 - std::pow(now.t, rule.beta_2_decay);
    const T keep = static_cast<T>(b), move = static_cast<T>(1.0 - b), epsilon_1 = static_cast<T>(rule.epsilon_1);
    Values direction(weight.size());
    for (std::size_t k = 0; k < weight.size(); ++k) {
        const T g = static_cast<T>(gradient[k]);
        const T v = keep * static_cast<T>(slots[0][k]) + move * (g * g + epsilon_1);
        slots[0][k] = static_cast<double>(v);
        direction[k] = v == 0 ? 0.0 : static_cast<double>(g / std::sqrt(v));
    }
    const auto root_mean_square = [](const Values& values) {
        constexpr std::ptrdiff_t block = 64 * 1024;
        double sum = 0.0;
        for (auto begin = values.begin(); begin < values.end(); begin += std::min(block, values.end() - begin)) {
            sum += sum_of_squares(Values(begin, begin + std::min(block, values.end() - begin)));
        }
        return std::sqrt(sum / static_cast<double>(values.size()));
    };
    const double a = larger(rule.epsilon_2, root_mean_square(weight)) * std::min(now.rate, 1.0 / std::sqrt(now.t)) /
                     larger(1.0, root_mean_square(direction) / rule.clip_threshold);
    for (std::size_t k = 0; k < weight.size(); ++k) {
        weight[k] = static_cast<double>(static_cast<T>(weight[k]) - static_cast<T>(a) * static_cast<T>(direction[k]));
    }
}

/// Muon leaves vectors to Adam.
template <class T>
void apply_rule(const fusedopt::Muon& rule, const Now& now, Values& weight, const Values& gradient, Values* slots) {
    const fusedopt::Adam adam{.beta_1 = rule.adam_beta_1, .beta_2 = rule.adam_beta_2, .epsilon = rule.epsilon};
    apply_rule<T>(adam, Now{now.rate * rule.adam_lr_ratio, now.t}, weight, gradient, slots);
}

}  // namespace reference
