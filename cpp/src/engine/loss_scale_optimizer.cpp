// Dynamic loss scaling around one or several optimizers: when the scale grows and falls, and its counters as state.
#include <fusedopt/loss_scale_optimizer.hpp>

#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <utility>

#include "engine/check.hpp"
#include "engine/multi_state.hpp"
#include "engine/state.hpp"
#include "engine/stepping.hpp"

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
    void append_to(Listing& listing);

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

std::int64_t LossScaleOptimizer::builds() const {
    return std::visit([](const auto& inner) { return inner->builds(); }, inner_);
}

void LossScaleOptimizer::rebind(std::span<const Tensor> variables, std::optional<std::int64_t> builds) {
    std::visit([&](const auto& inner) { inner->rebind(variables, builds); }, inner_);
}

bool LossScaleOptimizer::apply(Gradients gradients, std::optional<std::int64_t> builds) {
    return step(gradients, {{}, builds});
}

bool LossScaleOptimizer::apply(Gradients gradients, std::span<const Tensor> variables) {
    return step(gradients, {variables});
}

bool LossScaleOptimizer::apply(Gradients gradients, std::span<const std::size_t> indices,
                               std::optional<std::int64_t> builds) {
    return step(gradients, {indices, builds});
}

bool LossScaleOptimizer::step(Gradients gradients, const Optimizer::Choice& choice) {
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

std::int64_t LossScaleOptimizer::state_bytes() const {
    return std::visit([](const auto& inner) { return inner->state_bytes(); }, inner_);
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

std::vector<NamedTensor> LossScaleOptimizer::variables() const {
    return listed(Listing(Extent::wrapped));
}

void LossScaleOptimizer::set_weights(std::span<const Tensor> values) {
    load(Listing(Extent::wrapped), values);
}

std::vector<NamedTensor> LossScaleOptimizer::state() const {
    return listed(Listing(Extent::complete));
}

void LossScaleOptimizer::set_state(std::span<const Tensor> values) {
    load(Listing(Extent::complete), values);
}

void LossScaleOptimizer::Counters::append_to(Listing& listing) {
    listing.add_counter("loss_scale/iteration", iteration);
    listing.add("loss_scale/learning_rate", learning_rate);
    listing.add_counter("loss_scale/step_counter", step_counter);
    listing.add("loss_scale/dynamic_scale", Tensor(&dynamic_scale, DType::float32, std::span<const std::int64_t>()),
                [](const std::string& who, const Tensor& value) {
                    float scale;
                    std::memcpy(&scale, value.data(), sizeof(scale));
                    require_scale(who.c_str(), static_cast<double>(scale));
                });
    if (listing.extent() == Extent::complete) {
        listing.add_counter("loss_scale/consecutive_skipped_steps", consecutive_skipped_steps);
    }
}

std::vector<NamedTensor> LossScaleOptimizer::listed(Listing listing) const {
    return with_inner([&](auto& state) {
        counters_->append_to(listing);
        return state.listed(std::move(listing));
    });
}

void LossScaleOptimizer::load(Listing listing, std::span<const Tensor> values) {
    with_inner([&](auto& state) {
        const bool keeps_skipped_steps = listing.extent() == Extent::complete;
        counters_->append_to(listing);
        state.load(std::move(listing), values);
        if (!keeps_skipped_steps) counters_->consecutive_skipped_steps = 0;
    });
}

void LossScaleOptimizer::between_steps(const std::function<void()>& function) const {
    std::visit([&](const auto& inner) { inner->between_steps(function); }, inner_);
}

void LossScaleOptimizer::catch_up() {
    std::visit([](const auto& inner) { inner->catch_up(); }, inner_);
}

void LossScaleOptimizer::catch_up(const Tensor& variable, const Tensor& indices) {
    std::visit([&](const auto& inner) { inner->catch_up(variable, indices); }, inner_);
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
