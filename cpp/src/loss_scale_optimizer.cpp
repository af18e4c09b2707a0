// Dynamic loss scaling around one or several optimizers: when the scale grows and falls, and its counters as state.
#include <fusedopt/loss_scale_optimizer.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "check.hpp"
#include "multi_state.hpp"
#include "state.hpp"
#include "stepping.hpp"

namespace fusedopt {
namespace {

constexpr double smallest_scale = std::numeric_limits<float>::min();  // 2^-126
constexpr double largest_scale = 0x1p127;                             // the largest power of two of float32

void require_scale(const char* name, double scale) {
    if (!(scale >= smallest_scale && scale <= largest_scale)) refuse(name, "a number from 2^-126 to 2^127", scale);
}

}  // namespace

// Guarded by the inner optimizer's lock.
struct LossScaleOptimizer::Counters {
    std::int64_t iteration = 0;  // Keras keeps and stores one that never moves,
    double learning_rate = 0.0;  // and a learning rate that is never used
    std::int64_t step_counter = 0;
    float dynamic_scale = 0.0f;
    std::int64_t consecutive_skipped_steps = 0;
    std::int64_t dynamic_growth_steps = 0;
    Takeover takeover{"LossScaleOptimizer", "dynamic_scale"};
};

// Calls function(state), whichever kind is inside, under its lock.
template <class Function>
auto LossScaleOptimizer::with_inner(const Function& function) const {
    return std::visit(
        [&](const auto& inner) {
            const std::lock_guard lock(inner->state_->mutex);
            return function(*inner->state_);
        },
        inner_);
}

LossScaleOptimizer::LossScaleOptimizer(Optimizer inner, LossScaleOptions options)
    : LossScaleOptimizer(options, Inner(std::make_shared<Optimizer>(std::move(inner)))) {}

LossScaleOptimizer::LossScaleOptimizer(std::shared_ptr<Optimizer> inner, LossScaleOptions options)
    : LossScaleOptimizer(options, Inner(std::move(inner))) {}

LossScaleOptimizer::LossScaleOptimizer(std::shared_ptr<MultiOptimizer> inner, LossScaleOptions options)
    : LossScaleOptimizer(options, Inner(std::move(inner))) {}

LossScaleOptimizer::LossScaleOptimizer(LossScaleOptions options, Inner inner)
    : inner_(std::move(inner)), counters_(std::make_shared<Counters>()) {
    require_scale("initial_scale", options.initial_scale);
    require("dynamic_growth_steps", options.dynamic_growth_steps, domains::integer_from_1);
    counters_->dynamic_scale = nearest_float(options.initial_scale);
    counters_->dynamic_growth_steps = options.dynamic_growth_steps;
    with_inner([&](auto& state) {
        state.takeovers.add(std::shared_ptr<const Takeover>(counters_, &counters_->takeover));
        state.set_loss_scale_factor({});
    });
}

Optimizer& LossScaleOptimizer::inner() const {
    if (const auto* optimizer = std::get_if<std::shared_ptr<Optimizer>>(&inner_)) return **optimizer;
    throw std::invalid_argument("inner: expected an Optimizer inside, found a MultiOptimizer");
}

void LossScaleOptimizer::build(std::span<const Tensor> variables, std::span<const std::string> names) {
    inner().build(variables, names);
}

bool LossScaleOptimizer::built() const {
    return std::visit([](const auto& inner) { return inner->built(); }, inner_);
}

bool LossScaleOptimizer::apply(std::span<const Tensor> gradients) {
    return step(gradients, {});
}

bool LossScaleOptimizer::apply(std::span<const Tensor> gradients, std::span<const Tensor> variables) {
    return step(gradients, {variables});
}

bool LossScaleOptimizer::apply(std::span<const Tensor> gradients, std::span<const std::size_t> indices) {
    return step(gradients, {indices});
}

bool LossScaleOptimizer::step(std::span<const Tensor> gradients, const Optimizer::Choice& choice) {
    return with_inner([&](auto& state) {
        Counters& own = *counters_;
        require_scale("dynamic_scale", static_cast<double>(own.dynamic_scale));
        require_room("apply: step_counter", own.step_counter);
        require_room("apply: consecutive_skipped_steps", own.consecutive_skipped_steps);
        const std::int64_t calls = state.calls;
        if (!state.step(gradients, choice, {reciprocal(static_cast<double>(own.dynamic_scale)), true})) {
            own.step_counter = 0;
            ++own.consecutive_skipped_steps;
            if (own.dynamic_scale * 0.5 >= smallest_scale) own.dynamic_scale *= 0.5f;
            return false;
        }
        if (state.calls == calls) return true;  // no gradients at all: nothing happened
        own.consecutive_skipped_steps = 0;
        if (++own.step_counter >= own.dynamic_growth_steps) {
            own.step_counter = 0;
            if (own.dynamic_scale * 2.0 <= largest_scale) own.dynamic_scale *= 2.0f;
        }
        return true;
    });
}

double LossScaleOptimizer::dynamic_scale() const {
    return with_inner([&](auto&) { return static_cast<double>(counters_->dynamic_scale); });
}

void LossScaleOptimizer::set_dynamic_scale(double dynamic_scale) {
    require_scale("dynamic_scale", dynamic_scale);
    with_inner([&](auto& state) {
        state.require_not_stepping("set_dynamic_scale");
        counters_->dynamic_scale = nearest_float(dynamic_scale);
    });
}

std::int64_t LossScaleOptimizer::dynamic_growth_steps() const {
    return with_inner([&](auto&) { return counters_->dynamic_growth_steps; });
}

void LossScaleOptimizer::set_dynamic_growth_steps(std::int64_t dynamic_growth_steps) {
    require("dynamic_growth_steps", dynamic_growth_steps, domains::integer_from_1);
    with_inner([&](auto& state) {
        state.require_not_stepping("set_dynamic_growth_steps");
        counters_->dynamic_growth_steps = dynamic_growth_steps;
    });
}

std::int64_t LossScaleOptimizer::step_counter() const {
    return with_inner([&](auto&) { return counters_->step_counter; });
}

std::int64_t LossScaleOptimizer::consecutive_skipped_steps() const {
    return with_inner([&](auto&) { return counters_->consecutive_skipped_steps; });
}

std::int64_t LossScaleOptimizer::iterations() const {
    return std::visit([](const auto& inner) { return inner->iterations(); }, inner_);
}

std::int64_t LossScaleOptimizer::calls() const {
    return std::visit([](const auto& inner) { return inner->calls(); }, inner_);
}

std::optional<double> LossScaleOptimizer::global_norm() const {
    return std::visit([](const auto& inner) { return inner->global_norm(); }, inner_);
}

void LossScaleOptimizer::set_global_norm(std::optional<double> global_norm) {
    std::visit([&](const auto& inner) { inner->set_global_norm(global_norm); }, inner_);
}

void LossScaleOptimizer::finalize_variable_values(std::span<const Tensor> variables) {
    std::visit([&](const auto& inner) { inner->finalize_variable_values(variables); }, inner_);
}

std::vector<NamedTensor> LossScaleOptimizer::listed(bool complete) const {
    const std::span<const std::int64_t> scalar;
    std::vector<NamedTensor> list = {
        {"loss_scale/iteration", Tensor(&counters_->iteration, DType::int64, scalar)},
        {"loss_scale/learning_rate", Tensor(&counters_->learning_rate, DType::float64, scalar)},
        {"loss_scale/step_counter", Tensor(&counters_->step_counter, DType::int64, scalar)},
        {"loss_scale/dynamic_scale", Tensor(&counters_->dynamic_scale, DType::float32, scalar)},
    };
    if (complete) {
        list.push_back({"loss_scale/consecutive_skipped_steps",
                        Tensor(&counters_->consecutive_skipped_steps, DType::int64, scalar)});
    }
    const Extent extent = complete ? Extent::complete : Extent::wrapped;
    for (NamedTensor& variable : with_inner([&](auto& state) { return state.named_variables(extent); })) {
        list.push_back(std::move(variable));
    }
    return list;
}

void LossScaleOptimizer::load(std::span<const Tensor> values, bool complete) {
    with_inner([&](auto& state) {
        state.require_built("set_weights");
        const std::vector<NamedTensor> own = listed(complete);
        const std::size_t own_count = complete ? 5 : 4;
        const Extent extent = complete ? Extent::complete : Extent::wrapped;
        if (values.size() != own.size()) {
            throw std::invalid_argument("set_weights: expected " + std::to_string(own.size()) + " arrays, found " +
                                        std::to_string(values.size()));
        }
        for (std::size_t k = 0; k < own_count; ++k) {
            if (keeps(values[k], extent)) continue;
            if (!values[k] || values[k].rank() != 0 || values[k].dtype() != own[k].tensor.dtype()) {
                throw std::invalid_argument("set_weights: array " + std::to_string(k) + " (" + own[k].name +
                                            "): expected one " + std::string(to_string(own[k].tensor.dtype())) +
                                            " number");
            }
        }
        std::int64_t iteration = counters_->iteration;
        double learning_rate = counters_->learning_rate;
        std::int64_t counter = counters_->step_counter;
        std::int64_t skipped = complete ? counters_->consecutive_skipped_steps : 0;
        float scale = counters_->dynamic_scale;
        const auto take = [&](std::size_t k, auto& number) {
            if (!keeps(values[k], extent)) std::memcpy(&number, values[k].data(), sizeof(number));
        };
        take(0, iteration);
        take(1, learning_rate);
        take(2, counter);
        take(3, scale);
        if (complete) take(4, skipped);
        require_counter("set_weights: step_counter", counter);
        require_counter("set_weights: consecutive_skipped_steps", skipped);
        require_scale("set_weights: dynamic_scale", static_cast<double>(scale));
        state.check_weights(values.subspan(own_count), extent);
        counters_->iteration = iteration;
        counters_->learning_rate = learning_rate;
        counters_->step_counter = counter;
        counters_->dynamic_scale = scale;
        counters_->consecutive_skipped_steps = skipped;
        state.copy_weights(values.subspan(own_count), extent);
    });
}

std::vector<NamedTensor> LossScaleOptimizer::variables() const {
    return listed(false);
}

void LossScaleOptimizer::set_weights(std::span<const Tensor> values) {
    load(values, false);
}

std::vector<NamedTensor> LossScaleOptimizer::state() const {
    return listed(true);
}

void LossScaleOptimizer::set_state(std::span<const Tensor> values) {
    load(values, true);
}

void LossScaleOptimizer::between_steps(const std::function<void()>& function) const {
    std::visit([&](const auto& inner) { inner->between_steps(function); }, inner_);
}

void LossScaleOptimizer::begin_evaluation() {
    std::visit([](const auto& inner) { inner->begin_evaluation(); }, inner_);
}

void LossScaleOptimizer::end_evaluation() {
    std::visit([](const auto& inner) { inner->end_evaluation(); }, inner_);
}

bool LossScaleOptimizer::evaluating() const {
    return std::visit([](const auto& inner) { return inner->evaluating(); }, inner_);
}

}  // namespace fusedopt
