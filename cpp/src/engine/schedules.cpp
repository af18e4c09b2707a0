// The schedules' formulas, each computed in double and the same in every floating-point state of the caller.
#include <algorithm>
#include <cmath>
#include <numbers>
#include <string>

#include <fusedopt/schedules.hpp>

#include "engine/check.hpp"
#include "runtime/float_environment.hpp"

namespace fusedopt {

namespace {

std::string element(const char* name, std::size_t i) {
    return std::string(name) + "[" + std::to_string(i) + "]";
}

// A schedule at a step, the same number in every floating-point state of the caller. No step is below zero, but a
// schedule of the caller's may evaluate this one there and then choose another value.
template <class Schedule, class Formula>
double evaluate(const Schedule& schedule, double step, const Formula& formula) {
    schedule.check();
    require("step", step, domains::finite);
    return compute_in(Subnormals::kept, step, formula);
}

// (1 - alpha) * height * (1 + cos(pi p)) / 2 + alpha
double cosine(double p, double height, double alpha) {
    return (1.0 - alpha) * (0.5 * height * (1.0 + std::cos(std::numbers::pi * p))) + alpha;
}

}  // namespace

ArgumentsChecked ExponentialDecay::check() const {
    require_not_negative("initial_learning_rate", initial_learning_rate);
    require_positive("decay_steps", decay_steps);
    require_not_negative("decay_rate", decay_rate);
    return {};
}

// initial_learning_rate * decay_rate^p
double ExponentialDecay::operator()(Number at) const {
    return evaluate(*this, at, [this](double step) {
        const double p = step / decay_steps;
        return initial_learning_rate * std::pow(decay_rate, staircase ? std::floor(p) : p);
    });
}

ArgumentsChecked InverseTimeDecay::check() const {
    require_not_negative("initial_learning_rate", initial_learning_rate);
    require_positive("decay_steps", decay_steps);
    require_not_negative("decay_rate", decay_rate);
    return {};
}

// initial_learning_rate / (1 + decay_rate p)
double InverseTimeDecay::operator()(Number at) const {
    return evaluate(*this, at, [this](double step) {
        const double p = step / decay_steps;
        return initial_learning_rate / (1.0 + decay_rate * (staircase ? std::floor(p) : p));
    });
}

ArgumentsChecked PolynomialDecay::check() const {
    require_not_negative("initial_learning_rate", initial_learning_rate);
    require_positive("decay_steps", decay_steps);
    require_not_negative("end_learning_rate", end_learning_rate);
    require_not_negative("power", power);
    return {};
}

// (initial_learning_rate - end_learning_rate) (1 - p)^power + end_learning_rate
double PolynomialDecay::operator()(Number at) const {
    return evaluate(*this, at, [this](double step) {
        const double x = step / decay_steps;
        const double cycles = cycle && x != 0.0 ? std::ceil(x) : 1.0;
        const double quotient = step / (decay_steps * cycles);
        const double p = cycle && step < 0.0 ? quotient : std::min(quotient, 1.0);
        return (initial_learning_rate - end_learning_rate) * std::pow(1.0 - p, power) + end_learning_rate;
    });
}

ArgumentsChecked PiecewiseConstantDecay::check() const {
    if (values.size() != boundaries.size() + 1) {
        refuse("values", "one more than boundaries, " + std::to_string(boundaries.size() + 1) + " of them",
               static_cast<double>(values.size()));
    }
    for (std::size_t i = 0; i < boundaries.size(); ++i) {
        if (!std::isfinite(boundaries[i])) refuse(element("boundaries", i), "a finite number", boundaries[i]);
        if (i > 0 && !(boundaries[i] > boundaries[i - 1])) {
            refuse(element("boundaries", i), "a number greater than the one before", boundaries[i]);
        }
    }
    for (std::size_t i = 0; i < values.size(); ++i) {
        if (!(values[i] >= 0.0 && std::isfinite(values[i]))) {
            refuse(element("values", i), "a finite number >= 0", values[i]);
        }
    }
    return {};
}

// values[i], step <= boundaries[i]
double PiecewiseConstantDecay::operator()(Number step) const {
    check();
    require("step", step, domains::finite);
    const auto boundary = std::lower_bound(boundaries.begin(), boundaries.end(), static_cast<double>(step));
    return values[static_cast<std::size_t>(boundary - boundaries.begin())];
}

ArgumentsChecked CosineDecay::check() const {
    require_not_negative("initial_learning_rate", initial_learning_rate);
    require_positive("decay_steps", decay_steps);
    require_not_negative("alpha", alpha);
    if (warmup_target) require_not_negative("warmup_target", *warmup_target);
    require_not_negative("warmup_steps", warmup_steps);
    return {};
}

// initial_learning_rate + (warmup_target - initial_learning_rate) step / warmup_steps, then start * cosine(p)
double CosineDecay::operator()(Number at) const {
    return evaluate(*this, at, [this](double step) {
        const double start = warmup_target.value_or(initial_learning_rate);
        const double warmup = warmup_target ? static_cast<double>(warmup_steps) : 0.0;
        if (warmup_target && step < warmup) {
            return (start - initial_learning_rate) * (step / warmup) + initial_learning_rate;
        }
        return start * cosine(std::min((step - warmup) / decay_steps, 1.0), 1.0, alpha);
    });
}

ArgumentsChecked CosineDecayRestarts::check() const {
    require_not_negative("initial_learning_rate", initial_learning_rate);
    require_positive("first_decay_steps", first_decay_steps);
    require_positive("t_mul", t_mul);
    require_positive("m_mul", m_mul);
    require_not_negative("alpha", alpha);
    return {};
}

// initial_learning_rate * cosine(p, m_mul^i);  i = floor(log(1 - x (1 - t_mul)) / log(t_mul)), x = step / first;
// p = (x - (1 - t_mul^i) / (1 - t_mul)) / t_mul^i;  for t_mul = 1 i is the floor of x and p the rest
double CosineDecayRestarts::operator()(Number at) const {
    // Of a period. On a restart both quotients should be whole but can come out just below, which would give the end
    // of the period before; so a step this close to a restart is on it.
    constexpr double tolerance = 1e-9;
    return evaluate(*this, at, [this](double step) {
        const double x = step / first_decay_steps;
        const double growth = t_mul - 1.0;
        if (growth == 0.0) {
            const double i = std::floor(x + tolerance);
            return initial_learning_rate * cosine(x - i, std::pow(m_mul, i), alpha);
        }
        if (step > 0.0 && 1.0 + x * growth < tolerance) return initial_learning_rate * alpha;
        const double i = std::floor(std::log1p(x * growth) / std::log1p(growth) + tolerance);
        const double length = std::pow(t_mul, i);
        const double p = (x - (length - 1.0) / growth) / length;
        return initial_learning_rate * cosine(p, std::pow(m_mul, i), alpha);
    });
}

}  // namespace fusedopt
