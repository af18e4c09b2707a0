// Learning-rate schedules: functions of the step counter, given in place of a number. Names and defaults are Keras 3's.
#pragma once

#include <fusedopt/language.hpp>

#include <concepts>
#include <optional>
#include <vector>

namespace fusedopt {

/// A number of any arithmetic type. Braces would refuse an integer variable for a double. It has no default, so that a
/// call without a required argument does not compile.
class Number {
public:
    template <class Arithmetic>
        requires std::integral<Arithmetic> || std::floating_point<Arithmetic>
    constexpr Number(Arithmetic value) : value_(static_cast<double>(value)) {}  // NOLINT: implicit on purpose
    constexpr operator double() const { return value_; }                        // NOLINT: implicit on purpose

private:
    double value_;
};

// A schedule checks its arguments when they are given, in the initializer of its last member, and again in each call.
// It throws a std::invalid_argument that names the argument. All arithmetic is in double and rounds to nearest,
// whatever the caller's rounding mode. A step may be below zero, as in Keras. The formula then holds as it is, and its
// result need not be a learning rate.
struct ArgumentsChecked {};

/// initial_learning_rate * decay_rate^p, where p = step / decay_steps, or its floor with staircase.
struct ExponentialDecay {
    Number initial_learning_rate;
    Number decay_steps;
    Number decay_rate;
    bool staircase = false;

    double operator()(Number step) const;
    ArgumentsChecked check() const;
    ArgumentsChecked checked = check();
};

/// initial_learning_rate / (1 + decay_rate * p), where p = step / decay_steps, or its floor with staircase.
struct InverseTimeDecay {
    Number initial_learning_rate;
    Number decay_steps;
    Number decay_rate;
    bool staircase = false;

    double operator()(Number step) const;
    ArgumentsChecked check() const;
    ArgumentsChecked checked = check();
};

/// (initial_learning_rate - end_learning_rate) * (1 - p)^power + end_learning_rate, where p = step / decay_steps, at
/// most 1. With cycle, decay_steps is its first multiple that is not below step; a multiple itself ends its cycle.
struct PolynomialDecay {
    Number initial_learning_rate;
    Number decay_steps;
    double end_learning_rate = 0.0001;
    double power = 1.0;
    bool cycle = false;

    double operator()(Number step) const;
    ArgumentsChecked check() const;
    ArgumentsChecked checked = check();
};

/// values[i] for the first i with step <= boundaries[i]; beyond them the last value, of which there is one more.
struct PiecewiseConstantDecay {
    std::vector<double> boundaries;
    std::vector<double> values;

    double operator()(Number step) const;
    ArgumentsChecked check() const;
    ArgumentsChecked checked = check();
};

/// start * ((1 - alpha) * (1 + cos(pi p)) / 2 + alpha), where p = step / decay_steps, at most 1. The start is
/// initial_learning_rate; with a warmup_target it is that, reached on a straight line in warmup_steps, which p is
/// counted from.
struct CosineDecay {
    Number initial_learning_rate;
    Number decay_steps;
    double alpha = 0.0;
    std::optional<double> warmup_target = {};
    Number warmup_steps = 0;  // not used without warmup_target

    double operator()(Number step) const;
    ArgumentsChecked check() const;
    ArgumentsChecked checked = check();
};

/// initial_learning_rate * ((1 - alpha) * m_mul^i * (1 + cos(pi p)) / 2 + alpha), where p is the part of period i that
/// is over. Period i takes first_decay_steps * t_mul^i steps. Periods that shrink come to an end, and then the value is
/// initial_learning_rate * alpha.
struct CosineDecayRestarts {
    Number initial_learning_rate;
    Number first_decay_steps;
    double t_mul = 2.0;
    double m_mul = 1.0;
    double alpha = 0.0;

    double operator()(Number step) const;
    ArgumentsChecked check() const;
    ArgumentsChecked checked = check();
};

}  // namespace fusedopt
