#include <fusedopt/loss_scale_optimizer.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "check.hpp"
#include "state.hpp"

namespace fusedopt {
namespace {

constexpr double smallest_scale = std::numeric_limits<float>::min();  // 2^-126
constexpr double largest_scale = 0x1p127;                             // the largest power of two of float32
constexpr std::size_t own_count = 4;

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
};

LossScaleOptimizer::LossScaleOptimizer(Optimizer inner, LossScaleOptions options)
    : LossScaleOptimizer(std::make_shared<Optimizer>(std::move(inner)), options) {}

LossScaleOptimizer::LossScaleOptimizer(std::shared_ptr<Optimizer> inner, LossScaleOptions options)
    : inner_(std::move(inner)),
      counters_(std::make_shared<Counters>()),
      dynamic_growth_steps_(options.dynamic_growth_steps) {
    require_scale("initial_scale", options.initial_scale);
    require_count("dynamic_growth_steps", options.dynamic_growth_steps, 1);
    counters_->dynamic_scale = static_cast<float>(options.initial_scale);
    const std::lock_guard lock(inner_->state_->mutex);
    inner_->state_->loss_scale_factor = 1.0;
}

void LossScaleOptimizer::build(std::span<const Tensor> variables, std::span<const std::string> names) {
    inner_->build(variables, names);
}

bool LossScaleOptimizer::apply(std::span<const Tensor> gradients) {
    return step(gradients, nullptr);
}

bool LossScaleOptimizer::apply(std::span<const Tensor> gradients, std::span<const Tensor> variables) {
    return step(gradients, &variables);
}

bool LossScaleOptimizer::step(std::span<const Tensor> gradients, const std::span<const Tensor>* variables) {
    const std::lock_guard lock(inner_->state_->mutex);
    Counters& own = *counters_;
    require_scale("dynamic_scale", own.dynamic_scale);
    const std::int64_t calls = inner_->state_->calls;
    if (!inner_->state_->step(gradients, variables, {1.0 / static_cast<double>(own.dynamic_scale), true})) {
        own.step_counter = 0;
        ++own.consecutive_skipped_steps;
        if (own.dynamic_scale * 0.5 >= smallest_scale) own.dynamic_scale *= 0.5f;
        return false;
    }
    if (inner_->state_->calls == calls) return true;  // no gradients at all: nothing happened
    own.consecutive_skipped_steps = 0;
    if (++own.step_counter >= dynamic_growth_steps_) {
        own.step_counter = 0;
        if (own.dynamic_scale * 2.0 <= largest_scale) own.dynamic_scale *= 2.0f;
    }
    return true;
}

double LossScaleOptimizer::dynamic_scale() const {
    const std::lock_guard lock(inner_->state_->mutex);
    return static_cast<double>(counters_->dynamic_scale);
}

std::int64_t LossScaleOptimizer::step_counter() const {
    const std::lock_guard lock(inner_->state_->mutex);
    return counters_->step_counter;
}

std::int64_t LossScaleOptimizer::consecutive_skipped_steps() const {
    const std::lock_guard lock(inner_->state_->mutex);
    return counters_->consecutive_skipped_steps;
}

std::vector<NamedTensor> LossScaleOptimizer::variables() const {
    const std::span<const std::int64_t> scalar;
    std::vector<NamedTensor> list = {
        {"loss_scale/iteration", Tensor(&counters_->iteration, DType::int64, scalar)},
        {"loss_scale/learning_rate", Tensor(&counters_->learning_rate, DType::float64, scalar)},
        {"loss_scale/step_counter", Tensor(&counters_->step_counter, DType::int64, scalar)},
        {"loss_scale/dynamic_scale", Tensor(&counters_->dynamic_scale, DType::float32, scalar)},
    };
    const std::lock_guard lock(inner_->state_->mutex);
    for (NamedTensor& variable : inner_->state_->named_variables(false)) list.push_back(std::move(variable));
    return list;
}

void LossScaleOptimizer::set_weights(std::span<const Tensor> values) {
    const std::lock_guard lock(inner_->state_->mutex);
    inner_->state_->require_built("set_weights");
    const std::vector<NamedTensor> own = variables();
    if (values.size() != own.size()) {
        throw std::invalid_argument("set_weights: expected " + std::to_string(own.size()) + " arrays, found " +
                                    std::to_string(values.size()));
    }
    for (std::size_t k = 0; k < own_count; ++k) {
        if (!values[k] || values[k].rank() != 0 || values[k].dtype() != own[k].tensor.dtype()) {
            throw std::invalid_argument("set_weights: array " + std::to_string(k) + " (" + own[k].name +
                                        "): expected one " + std::string(to_string(own[k].tensor.dtype())) + " number");
        }
    }
    std::int64_t counter;
    float scale;
    std::memcpy(&counter, values[2].data(), sizeof(counter));
    std::memcpy(&scale, values[3].data(), sizeof(scale));
    require_count("set_weights: step_counter", counter, 0);
    require_scale("set_weights: dynamic_scale", static_cast<double>(scale));
    inner_->state_->check_weights(values.subspan(own_count), false);
    counters_->step_counter = counter;
    counters_->dynamic_scale = scale;
    counters_->consecutive_skipped_steps = 0;
    inner_->state_->copy_weights(values.subspan(own_count), false);
}

}  // namespace fusedopt
