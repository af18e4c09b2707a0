// The public class: locks, and hands on to its state.
#include <fusedopt/multi_optimizer.hpp>

#include <mutex>
#include <utility>

#include "engine/multi_state.hpp"

namespace fusedopt {

MultiOptimizer::MultiOptimizer(std::vector<std::shared_ptr<Optimizer>> optimizers,
                               std::optional<double> loss_scale_factor, std::optional<double> global_clipnorm,
                               bool skip_nonfinite)
    : state_(std::make_unique<State>(std::move(optimizers), loss_scale_factor, global_clipnorm, skip_nonfinite)) {}
MultiOptimizer::MultiOptimizer(MultiOptimizer&&) noexcept = default;
MultiOptimizer& MultiOptimizer::operator=(MultiOptimizer&&) noexcept = default;
MultiOptimizer::~MultiOptimizer() = default;

void MultiOptimizer::build(std::span<const Tensor> variables, std::span<const std::size_t> assignment,
                           std::span<const std::string> names) {
    const std::lock_guard lock(state_->mutex);
    state_->build(variables, assignment, names);
}

void MultiOptimizer::shard(Communicator communicator, bool average) {
    const std::lock_guard lock(state_->mutex);
    state_->shard(std::move(communicator), average);
}

void MultiOptimizer::agree(const std::string& operation, const std::string& facts, const std::string& error) {
    const std::lock_guard lock(state_->mutex);
    Ranks::of(state_->ranks.get()).agree(operation, facts, error);
}

std::int64_t MultiOptimizer::agreements() const {
    const std::lock_guard lock(state_->mutex);
    return Ranks::of(state_->ranks.get()).agreements();
}

std::vector<std::int64_t> MultiOptimizer::piece_shape(std::size_t variable) const {
    const std::lock_guard lock(state_->mutex);
    state_->require_built("piece_shape");
    return Ranks::of(state_->ranks.get()).piece_shape(variable);
}

std::vector<std::int64_t> MultiOptimizer::borders(std::size_t variable) const {
    const std::lock_guard lock(state_->mutex);
    state_->require_built("borders");
    return Ranks::of(state_->ranks.get()).borders(variable);
}

bool MultiOptimizer::built() const {
    const std::lock_guard lock(state_->mutex);
    return state_->is_built;
}

std::int64_t MultiOptimizer::builds() const {
    const std::lock_guard lock(state_->mutex);
    return state_->builds;
}

void MultiOptimizer::rebind(std::span<const Tensor> variables, std::optional<std::int64_t> builds) {
    const std::lock_guard lock(state_->mutex);
    state_->rebind(variables, builds);
}

bool MultiOptimizer::apply(Gradients gradients, std::optional<std::int64_t> builds) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {{}, builds}, {reciprocal(state_->loss_scale_factor), false});
}

bool MultiOptimizer::apply(Gradients gradients, std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {variables}, {reciprocal(state_->loss_scale_factor), false});
}

bool MultiOptimizer::apply(Gradients gradients, std::span<const std::size_t> indices,
                           std::optional<std::int64_t> builds) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {indices, builds}, {reciprocal(state_->loss_scale_factor), false});
}

std::span<const std::shared_ptr<Optimizer>> MultiOptimizer::optimizers() const {
    return state_->optimizers;
}

std::int64_t MultiOptimizer::state_bytes() const {
    const std::lock_guard lock(state_->mutex);
    std::int64_t bytes = 0;
    for (const auto& optimizer : state_->optimizers) bytes += optimizer->state_bytes();
    return bytes;
}

std::int64_t MultiOptimizer::iterations() const {
    const std::lock_guard lock(state_->mutex);
    return state_->calls;
}

std::int64_t MultiOptimizer::calls() const {
    return iterations();
}

std::int64_t MultiOptimizer::skipped_steps() const {
    const std::lock_guard lock(state_->mutex);
    return state_->skipped_steps;
}

std::optional<double> MultiOptimizer::global_norm() const {
    const std::lock_guard lock(state_->mutex);
    return state_->global_norm;
}

void MultiOptimizer::set_global_norm(std::optional<double> global_norm) {
    const std::lock_guard lock(state_->mutex);
    state_->global_norm = global_norm;
}

void MultiOptimizer::begin_evaluation() {
    const std::lock_guard lock(state_->mutex);
    state_->begin_evaluation();
}

void MultiOptimizer::end_evaluation() {
    const std::lock_guard lock(state_->mutex);
    state_->end_evaluation();
}

bool MultiOptimizer::evaluating() const {
    const std::lock_guard lock(state_->mutex);
    return state_->is_any_evaluating();
}

void MultiOptimizer::set_options(std::optional<double> loss_scale_factor, std::optional<double> global_clipnorm,
                                 bool skip_nonfinite) {
    const std::lock_guard lock(state_->mutex);
    state_->set_options(loss_scale_factor, global_clipnorm, skip_nonfinite);
}

double MultiOptimizer::loss_scale_factor() const {
    const std::lock_guard lock(state_->mutex);
    return state_->loss_scale_factor;
}

std::vector<NamedTensor> MultiOptimizer::variables() const {
    const std::lock_guard lock(state_->mutex);
    return state_->listed(Listing(Extent::keras));
}

void MultiOptimizer::set_weights(std::span<const Tensor> values) {
    const std::lock_guard lock(state_->mutex);
    state_->load(Listing(Extent::keras), values);
}

std::vector<NamedTensor> MultiOptimizer::state() const {
    const std::lock_guard lock(state_->mutex);
    return state_->listed(Listing(Extent::complete));
}

void MultiOptimizer::set_state(std::span<const Tensor> values) {
    const std::lock_guard lock(state_->mutex);
    state_->load(Listing(Extent::complete), values);
}

void MultiOptimizer::between_steps(const std::function<void()>& function) const {
    const std::lock_guard lock(state_->mutex);
    state_->between_steps(function);
}

void MultiOptimizer::catch_up() {
    const std::lock_guard lock(state_->mutex);
    state_->catch_up();
}

void MultiOptimizer::catch_up(const Tensor& variable, const Tensor& indices) {
    const std::lock_guard lock(state_->mutex);
    state_->catch_up(variable, indices);
}

void MultiOptimizer::finalize_variable_values(std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    state_->finalize(variables);
}

}  // namespace fusedopt
