// Schedules: values where they begin, turn and end, what is refused and when, and the steps of an optimizer.
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <type_traits>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "check.hpp"

namespace {

using fusedopt::CosineDecay;
using fusedopt::CosineDecayRestarts;
using fusedopt::ExponentialDecay;
using fusedopt::InverseTimeDecay;
using fusedopt::PiecewiseConstantDecay;
using fusedopt::PolynomialDecay;

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

bool near(double found, double expected) {
    return std::abs(found - expected) <= 1e-14 * (1.0 + std::abs(expected));
}

}  // namespace

TEST(exponential_decay) {
    const ExponentialDecay smooth{.initial_learning_rate = 0.5, .decay_steps = 10, .decay_rate = 0.25};
    CHECK_EQUAL(smooth(0), 0.5);
    CHECK_EQUAL(smooth(5), 0.25);
    CHECK_EQUAL(smooth(10), 0.125);
    CHECK(near(smooth(7), 0.5 * std::pow(0.25, 0.7)));
    const ExponentialDecay stairs{
        .initial_learning_rate = 0.5, .decay_steps = 10, .decay_rate = 0.25, .staircase = true};
    CHECK_EQUAL(stairs(9), 0.5);
    CHECK_EQUAL(stairs(10), 0.125);
    CHECK_EQUAL(stairs(19), 0.125);
}

TEST(inverse_time_decay) {
    const InverseTimeDecay smooth{.initial_learning_rate = 0.5, .decay_steps = 10, .decay_rate = 1};
    CHECK_EQUAL(smooth(0), 0.5);
    CHECK_EQUAL(smooth(10), 0.25);
    CHECK(near(smooth(7), 0.5 / 1.7));
    const InverseTimeDecay stairs{.initial_learning_rate = 0.5, .decay_steps = 10, .decay_rate = 1, .staircase = true};
    CHECK_EQUAL(stairs(9), 0.5);
    CHECK_EQUAL(stairs(30), 0.125);
}

TEST(polynomial_decay) {
    CHECK_EQUAL((PolynomialDecay{.initial_learning_rate = 1, .decay_steps = 10}(10)), 0.0001);
    const PolynomialDecay once{.initial_learning_rate = 1, .decay_steps = 10, .end_learning_rate = 0.5, .power = 2.0};
    CHECK_EQUAL(once(0), 1.0);
    CHECK_EQUAL(once(5), 0.625);
    CHECK_EQUAL(once(10), 0.5);
    CHECK_EQUAL(once(1000), 0.5);
    const PolynomialDecay cycle{.initial_learning_rate = 1, .decay_steps = 10, .end_learning_rate = 0.5, .cycle = true};
    CHECK_EQUAL(cycle(0), 1.0);
    CHECK_EQUAL(cycle(10), 0.5);
    CHECK(near(cycle(11), 0.5 + 0.5 * 9 / 20));
    CHECK_EQUAL(cycle(20), 0.5);
}

TEST(piecewise_constant_decay) {
    const PiecewiseConstantDecay schedule{.boundaries = {10, 20}, .values = {0.3, 0.2, 0.1}};
    CHECK_EQUAL(schedule(0), 0.3);
    CHECK_EQUAL(schedule(10), 0.3);
    CHECK_EQUAL(schedule(11), 0.2);
    CHECK_EQUAL(schedule(20), 0.2);
    CHECK_EQUAL(schedule(21), 0.1);
    CHECK_EQUAL(schedule(std::numeric_limits<std::int64_t>::max()), 0.1);
    CHECK_EQUAL((PiecewiseConstantDecay{.boundaries = {}, .values = {0.5}}(7)), 0.5);
}

TEST(cosine_decay) {
    const CosineDecay plain{.initial_learning_rate = 1, .decay_steps = 100, .alpha = 0.5, .warmup_steps = 10};
    CHECK_EQUAL(plain(0), 1.0);
    CHECK_EQUAL(plain(100), 0.5);
    CHECK_EQUAL(plain(101), 0.5);
    CHECK(near(plain(25), 0.5 * 0.5 * (1.0 + std::numbers::sqrt2 / 2.0) + 0.5));
    const CosineDecay warmed{.initial_learning_rate = 0.25, .decay_steps = 100, .warmup_target = 1, .warmup_steps = 10};
    CHECK_EQUAL(warmed(0), 0.25);
    CHECK_EQUAL(warmed(5), 0.625);
    CHECK_EQUAL(warmed(10), 1.0);
    CHECK(near(warmed(60), 0.5));
    CHECK_EQUAL(warmed(110), 0.0);
}

TEST(cosine_decay_restarts) {
    for (const double t_mul : {1.0, 1.1, 1.5, 2.0, 3.0, 10.0}) {
        const CosineDecayRestarts schedule{.initial_learning_rate = 1, .first_decay_steps = 10, .t_mul = t_mul};
        double start = 0.0, length = 10.0;
        for (int i = 0; i < 15; ++i) {
            CHECK_EQUAL(schedule(start), 1.0);
            CHECK(near(schedule(start + length / 2), 0.5));
            start += length;
            length *= t_mul;
        }
    }
    const CosineDecayRestarts lower{.initial_learning_rate = 1, .first_decay_steps = 10, .m_mul = 0.5, .alpha = 0.5};
    CHECK_EQUAL(lower(10), 0.75);
    CHECK_EQUAL(lower(30), 0.625);
    const CosineDecayRestarts shrinking{
        .initial_learning_rate = 1, .first_decay_steps = 10, .t_mul = 0.5, .alpha = 0.25};
    CHECK_EQUAL(shrinking(15), 1.0);
    CHECK_EQUAL(shrinking(20), 0.25);
    CHECK_EQUAL(shrinking(1000), 0.25);
}

TEST(arguments_of_any_number_type) {
    const std::int64_t epochs = 3, steps = 7;
    const float rate = 0.5f;
    const CosineDecay schedule{.initial_learning_rate = rate, .decay_steps = epochs * steps};
    CHECK_EQUAL(schedule(epochs * steps), 0.0);
    CHECK_EQUAL(schedule(0u), 0.5);
    // What has no default must be given.
    static_assert(!std::is_default_constructible_v<CosineDecay> && !std::is_default_constructible_v<fusedopt::Number>);
}

TEST(refused_where_they_are_given) {
    for (const double bad : {not_a_number, infinity, -1.0}) {
        CHECK_REFUSED((ExponentialDecay{bad, 10, 0.5}), "initial_learning_rate: expected a finite number >= 0");
        CHECK_REFUSED((ExponentialDecay{0.1, bad, 0.5}), "decay_steps: expected a finite number > 0");
        CHECK_REFUSED((ExponentialDecay{0.1, 10, bad}), "decay_rate: expected");
        CHECK_REFUSED((InverseTimeDecay{bad, 10, 0.5}), "initial_learning_rate: expected");
        CHECK_REFUSED((InverseTimeDecay{0.1, bad, 0.5}), "decay_steps: expected");
        CHECK_REFUSED((InverseTimeDecay{0.1, 10, bad}), "decay_rate: expected");
        CHECK_REFUSED((PolynomialDecay{bad, 10}), "initial_learning_rate: expected");
        CHECK_REFUSED((PolynomialDecay{0.1, bad}), "decay_steps: expected");
        CHECK_REFUSED((PolynomialDecay{0.1, 10, bad}), "end_learning_rate: expected");
        CHECK_REFUSED((PolynomialDecay{0.1, 10, 0.01, bad}), "power: expected");
        CHECK_REFUSED((PiecewiseConstantDecay{{1}, {0.1, bad}}), "values[1]: expected a finite number >= 0");
        CHECK_REFUSED((CosineDecay{bad, 10}), "initial_learning_rate: expected");
        CHECK_REFUSED((CosineDecay{0.1, bad}), "decay_steps: expected");
        CHECK_REFUSED((CosineDecay{0.1, 10, bad}), "alpha: expected");
        CHECK_REFUSED((CosineDecay{0.1, 10, 0.0, bad}), "warmup_target: expected");
        CHECK_REFUSED((CosineDecay{0.1, 10, 0.0, 0.5, bad}), "warmup_steps: expected");
        CHECK_REFUSED((CosineDecayRestarts{bad, 10}), "initial_learning_rate: expected");
        CHECK_REFUSED((CosineDecayRestarts{0.1, bad}), "first_decay_steps: expected");
        CHECK_REFUSED((CosineDecayRestarts{0.1, 10, bad}), "t_mul: expected a finite number > 0");
        CHECK_REFUSED((CosineDecayRestarts{0.1, 10, 2.0, bad}), "m_mul: expected a finite number > 0");
        CHECK_REFUSED((CosineDecayRestarts{0.1, 10, 2.0, 1.0, bad}), "alpha: expected");
    }
    CHECK_REFUSED((CosineDecay{0.1, 0}), "decay_steps: expected a finite number > 0, found 0");
    CHECK_REFUSED((PiecewiseConstantDecay{}), "values: expected one more than boundaries, 1 of them, found 0");
    CHECK_REFUSED((PiecewiseConstantDecay{{1, 2}, {0.1}}), "values: expected one more than boundaries, 3 of them");
    CHECK_REFUSED((PiecewiseConstantDecay{{2, 2}, {3, 2, 1}}), "boundaries[1]: expected a number greater than the one");
    CHECK_REFUSED((PiecewiseConstantDecay{{infinity}, {2, 1}}), "boundaries[0]: expected a finite number, found inf");
}

TEST(refused_in_a_call) {
    CosineDecay cosine{.initial_learning_rate = 0.1, .decay_steps = 10};
    for (const double bad : {not_a_number, infinity, -infinity}) {
        CHECK_REFUSED(cosine(bad), "step: expected a finite number, found ");
    }
    cosine.decay_steps = 0;
    CHECK_REFUSED(cosine(1), "decay_steps: expected");
    PiecewiseConstantDecay pieces{.boundaries = {1}, .values = {0.2, 0.1}};
    pieces.values.pop_back();
    CHECK_REFUSED(pieces(5), "values: expected");
}

TEST(steps_of_an_optimizer) {
    const CosineDecay schedule{.initial_learning_rate = 0.1, .decay_steps = 8, .warmup_target = 0.5, .warmup_steps = 3};
    fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = schedule});
    std::vector<double> w = {0.0};
    const std::vector<double> g = {1.0};
    optimizer.build({fusedopt::Tensor(w)});
    double expected = 0.0;
    for (std::int64_t step = 0; step < 12; ++step) {
        CHECK_EQUAL(optimizer.learning_rate(), schedule(step));
        optimizer.apply({fusedopt::Tensor(g)});
        expected -= schedule(step);
        CHECK_EQUAL(w[0], expected);
    }
    optimizer.set_learning_rate(PiecewiseConstantDecay{.boundaries = {12}, .values = {0.25, 0.125}});
    CHECK_EQUAL(optimizer.learning_rate(), 0.25);
    optimizer.apply({fusedopt::Tensor(g)});
    CHECK_EQUAL(optimizer.learning_rate(), 0.125);
}

TEST(every_schedule_is_a_hyperparameter) {
    using fusedopt::Hyperparameter;
    const std::vector<Hyperparameter> all = {ExponentialDecay{0.5, 1, 1},  InverseTimeDecay{0.5, 1, 0},
                                             PolynomialDecay{0.5, 1, 0.5}, PiecewiseConstantDecay{{1}, {0.5, 0.5}},
                                             CosineDecay{0.5, 1, 1.0},     CosineDecayRestarts{0.5, 1, 2.0, 1.0, 1.0}};
    for (const Hyperparameter& each : all) {
        CHECK(!each.is_number());
        CHECK_EQUAL(each(12345), 0.5);
    }
}

// A step below zero is none, but a schedule that chooses between others may evaluate them there. Keras's values.
TEST(steps_below_zero) {
    CHECK_EQUAL((ExponentialDecay{.initial_learning_rate = 0.5, .decay_steps = 10, .decay_rate = 0.25}(-5)), 1.0);
    CHECK_EQUAL((InverseTimeDecay{.initial_learning_rate = 0.5, .decay_steps = 10, .decay_rate = 1}(-5)), 1.0);
    CHECK_EQUAL((InverseTimeDecay{.initial_learning_rate = 0.5, .decay_steps = 10, .decay_rate = 1}(-10)), infinity);
    CHECK_EQUAL((PolynomialDecay{.initial_learning_rate = 1, .decay_steps = 10, .end_learning_rate = 0.5}(-5)), 1.25);
    const PolynomialDecay cycle{
        .initial_learning_rate = 1, .decay_steps = 10, .end_learning_rate = 0.5, .power = 1.0, .cycle = true};
    CHECK_EQUAL(cycle(-5), -infinity);
    CHECK_EQUAL(cycle(-10), 0.5);
    CHECK_EQUAL(cycle(-15), 0.25);
    CHECK_EQUAL((PiecewiseConstantDecay{.boundaries = {10}, .values = {0.5, 0.25}}(-5)), 0.5);
    CHECK(near(CosineDecay{.initial_learning_rate = 1, .decay_steps = 10}(-5), 0.5));
    const CosineDecay warm{.initial_learning_rate = 0.5, .decay_steps = 10, .warmup_target = 1.0, .warmup_steps = 10};
    CHECK_EQUAL(warm(-5), 0.25);
    const CosineDecayRestarts doubling{.initial_learning_rate = 1, .first_decay_steps = 10};
    CHECK(std::isnan(doubling(-10)));
    CHECK(std::isnan(doubling(-1000)));
    const CosineDecayRestarts even{.initial_learning_rate = 1, .first_decay_steps = 10, .t_mul = 1.0, .m_mul = 0.5};
    CHECK(near(even(-5), 1.0));
}
