// The public class: locks, and hands on to its state.
#include <fusedopt/optimizer.hpp>

#include <stdexcept>
#include <utility>

#include "engine/ranks.hpp"
#include "engine/state.hpp"
#include "engine/stepping.hpp"

namespace fusedopt {

Optimizer::Optimizer(Rule rule, Options options)
    : state_(std::make_unique<State>(std::move(rule), std::move(options))) {}
Optimizer::Optimizer(Optimizer&&) noexcept = default;
Optimizer& Optimizer::operator=(Optimizer&&) noexcept = default;
Optimizer::~Optimizer() = default;

void Optimizer::exclude_from_weight_decay(std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    state_->exclude(variables);
}

void Optimizer::build(std::span<const Tensor> variables, std::span<const std::string> names) {
    const std::lock_guard lock(state_->mutex);
    state_->build(variables, names);
}

void Optimizer::rebind(std::span<const Tensor> variables, std::optional<std::int64_t> builds) {
    const std::lock_guard lock(state_->mutex);
    state_->rebind(variables, builds);
}

void Optimizer::shard(Communicator communicator, bool average) {
    const std::lock_guard lock(state_->mutex);
    if (state_->is_built) throw std::invalid_argument("shard: expected before build, found the optimizer built");
    if (state_->ranks) throw std::invalid_argument("shard: expected once, found the optimizer sharded already");
    Ranks::require_shardable(*state_);
    state_->ranks = std::make_shared<Ranks>(std::move(communicator), average, std::vector{state_.get()});
}

void Optimizer::agree(const std::string& operation, const std::string& facts, const std::string& error) {
    const std::lock_guard lock(state_->mutex);
    Ranks::of(state_->ranks_for("agree")).agree(operation, facts, error);
}

std::int64_t Optimizer::agreements() const {
    const std::lock_guard lock(state_->mutex);
    return Ranks::of(state_->ranks_for("agreements")).agreements();
}

std::vector<std::int64_t> Optimizer::piece_shape(std::size_t variable) const {
    const std::lock_guard lock(state_->mutex);
    state_->require_built("piece_shape");
    return Ranks::of(state_->ranks_for("piece_shape")).piece_shape(variable);
}

std::vector<std::int64_t> Optimizer::borders(std::size_t variable) const {
    const std::lock_guard lock(state_->mutex);
    state_->require_built("borders");
    return Ranks::of(state_->ranks_for("borders")).borders(variable);
}

bool Optimizer::built() const {
    const std::lock_guard lock(state_->mutex);
    return state_->is_built;
}

std::int64_t Optimizer::builds() const {
    const std::lock_guard lock(state_->mutex);
    return state_->builds;
}

bool Optimizer::apply(Gradients gradients, std::optional<std::int64_t> builds) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {{}, builds}, {reciprocal(state_->loss_scale_factor), false});
}

bool Optimizer::apply(Gradients gradients, std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {variables}, {reciprocal(state_->loss_scale_factor), false});
}

bool Optimizer::apply(Gradients gradients, std::span<const std::size_t> indices, std::optional<std::int64_t> builds) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {indices, builds}, {reciprocal(state_->loss_scale_factor), false});
}

std::int64_t Optimizer::state_bytes() const {
    const std::lock_guard lock(state_->mutex);
    return state_->state_bytes();
}

std::int64_t Optimizer::iterations() const {
    const std::lock_guard lock(state_->mutex);
    return state_->iterations();
}

std::int64_t Optimizer::calls() const {
    const std::lock_guard lock(state_->mutex);
    return state_->calls;
}

std::int64_t Optimizer::skipped_steps() const {
    const std::lock_guard lock(state_->mutex);
    return state_->skipped_steps;
}

double Optimizer::learning_rate() const {
    const std::lock_guard lock(state_->mutex);
    const Hyperparameter function = state_->learning_rate;  // a copy: the call may replace the original
    return function.is_number() ? state_->learning_rate_value : function(state_->calls);
}

// The old value is destroyed with the argument, after the lock is released, because it may hold functions of the
// caller's.
void Optimizer::set_learning_rate(Hyperparameter learning_rate) {
    const std::lock_guard lock(state_->mutex);
    state_->set_learning_rate(learning_rate);
}

Rule Optimizer::rule() const {
    const std::lock_guard lock(state_->mutex);
    return state_->rule;
}

Options Optimizer::options() const {
    const std::lock_guard lock(state_->mutex);
    Options options = state_->options;
    options.learning_rate =
        state_->learning_rate.is_number() ? Hyperparameter(state_->learning_rate_value) : state_->learning_rate;
    return options;
}

void Optimizer::set_rule(Rule rule) {
    const std::lock_guard lock(state_->mutex);
    state_->set_rule(rule);
}

void Optimizer::set_options(Options options) {
    const std::lock_guard lock(state_->mutex);
    state_->set_options(options);
}

double Optimizer::loss_scale_factor() const {
    const std::lock_guard lock(state_->mutex);
    return state_->loss_scale_factor;
}

std::optional<double> Optimizer::global_norm() const {
    const std::lock_guard lock(state_->mutex);
    return state_->global_norm;
}

void Optimizer::set_global_norm(std::optional<double> global_norm) {
    const std::lock_guard lock(state_->mutex);
    state_->require_not_stepping("set_global_norm");
    state_->global_norm = global_norm;
}

std::vector<NamedTensor> Optimizer::variables() const {
    const std::lock_guard lock(state_->mutex);
    return state_->listed(Listing(Extent::keras));
}

void Optimizer::set_weights(std::span<const Tensor> values) {
    const std::lock_guard lock(state_->mutex);
    state_->load(Listing(Extent::keras), values);
}

std::vector<NamedTensor> Optimizer::state() const {
    const std::lock_guard lock(state_->mutex);
    return state_->listed(Listing(Extent::complete));
}

void Optimizer::set_state(std::span<const Tensor> values) {
    const std::lock_guard lock(state_->mutex);
    state_->load(Listing(Extent::complete), values);
}

void Optimizer::between_steps(const std::function<void()>& function) const {
    const std::lock_guard lock(state_->mutex);
    state_->require_training_weights("between_steps");
    function();
}

void Optimizer::begin_evaluation() {
    const std::lock_guard lock(state_->mutex);
    const auto check = [&] {
        state_->require_no_evaluation("begin_evaluation");
        require_evaluation_weights(state_->has_evaluation_weights());
        state_->prepare_evaluation();
        state_->require_no_evaluation("begin_evaluation");  // a beta_1 that is a function may have called it
    };
    const auto write = [&] {
        state_->begin_evaluation();
        return true;
    };
    Ranks::together(state_->ranks_for("begin_evaluation"), "evaluation_weights", check, write);
}

void Optimizer::end_evaluation() {
    const std::lock_guard lock(state_->mutex);
    const auto check = [&] { require_evaluating(state_->is_evaluating); };
    const auto write = [&] {
        state_->end_evaluation();
        return true;
    };
    constexpr bool mends = true;
    Ranks::together(state_->ranks_for("end_evaluation"), "the end of evaluation_weights", check, write, mends);
}

bool Optimizer::evaluating() const {
    const std::lock_guard lock(state_->mutex);
    return state_->is_evaluating;
}

void Optimizer::catch_up() {
    const std::lock_guard lock(state_->mutex);
    state_->catch_up();
}

void Optimizer::catch_up(const Tensor& variable, const Tensor& indices) {
    const std::lock_guard lock(state_->mutex);
    state_->catch_up(variable, indices);
}

void Optimizer::finalize_variable_values(std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    state_->finalize(variables);
}

}  // namespace fusedopt
