// Rules as a program writes them for itself: the formulas of three rules that the library has, too, so that every bit
// can be compared.
#pragma once

#include <cmath>
#include <cstdint>
#include <tuple>

#include <fusedopt/fusedopt.hpp>

using fusedopt::OwnRule;

struct OwnSgd {
    static constexpr const char* name = "OwnSgd";
    static constexpr double learning_rate = 0.01;

    template <class T>
    struct Formula {
        T lr;

        void operator()(T& w, T g) const { w = w - lr * g; }
    };

    Formula<double> formula(const OwnRule::Now& now) const { return {now.learning_rate}; }
};

struct OwnLion {
    double beta_1 = 0.9;
    double beta_2 = 0.99;

    static constexpr const char* name = "OwnLion";
    static constexpr double learning_rate = 0.001;
    static constexpr OwnRule::Slot slots[] = {{.name = "momentum"}};
    static constexpr bool allows_float8 = true;
    static constexpr auto fields() {
        return std::tuple(fusedopt::Field("beta_1", &OwnLion::beta_1, fusedopt::domains::above_0_to_1),
                          fusedopt::Field("beta_2", &OwnLion::beta_2, fusedopt::domains::from_0_below_1));
    }

    template <class T>
    struct Formula {
        T lr, beta_1, one_minus_beta_1, beta_2, one_minus_beta_2;

        void operator()(T& w, T g, T& m) const {
            const T c = beta_1 * m + one_minus_beta_1 * g;
            w = w - (c > 0 ? lr : c < 0 ? -lr : c);
            m = beta_2 * m + one_minus_beta_2 * g;
        }
    };

    Formula<double> formula(const OwnRule::Now& now) const {
        return {now.learning_rate, beta_1, 1.0 - beta_1, beta_2, 1.0 - beta_2};
    }
};

struct OwnAdam {
    double beta_1 = 0.9;
    double beta_2 = 0.999;
    double epsilon = 1e-7;
    bool amsgrad = true;  // of no use: to have one of each type
    std::int64_t warmup_steps = 0;

    static constexpr const char* name = "OwnAdam";
    static constexpr double learning_rate = 0.001;
    static constexpr OwnRule::Slot slots[] = {
        {.name = "momentum"}, {.name = "velocity", .is_signed = false}, {.name = "velocity_hat", .is_signed = false}};
    static constexpr auto fields() {
        return std::tuple(fusedopt::Field("beta_1", &OwnAdam::beta_1, fusedopt::domains::from_0_below_1),
                          fusedopt::Field("beta_2", &OwnAdam::beta_2, fusedopt::domains::from_0_below_1),
                          fusedopt::Field("epsilon", &OwnAdam::epsilon, fusedopt::domains::normal),
                          fusedopt::Field("amsgrad", &OwnAdam::amsgrad),
                          fusedopt::Field("warmup_steps", &OwnAdam::warmup_steps, fusedopt::domains::integer_from_0));
    }

    template <class T>
    struct Formula {
        T alpha, one_minus_beta_1, one_minus_beta_2, epsilon;

        void operator()(T& w, T g, T& m, T& v, T& u) const {
            v = v + (g * g - v) * one_minus_beta_2;
            u = u != u || u > v ? u : v;
            m = m + (g - m) * one_minus_beta_1;
            w = w - (alpha * m) / (std::sqrt(u) + epsilon);
        }
    };

    Formula<double> formula(const OwnRule::Now& now) const {
        const double t = static_cast<double>(now.t);
        return {now.learning_rate * std::sqrt(1.0 - std::pow(beta_2, t)) / (1.0 - std::pow(beta_1, t)), 1.0 - beta_1,
                1.0 - beta_2, epsilon};
    }
};

struct OwnAndBuiltIn {
    const char* name;
    fusedopt::Rule own;
    fusedopt::Rule built_in;
};

inline const OwnAndBuiltIn own_rules[] = {
    {"SGD", OwnSgd{}, fusedopt::SGD{}},
    {"Lion", OwnLion{.beta_2 = 0.97}, fusedopt::Lion{.beta_2 = 0.97}},
    {"Adam", OwnAdam{.beta_1 = 0.8}, fusedopt::Adam{.beta_1 = 0.8, .amsgrad = true}},
};
