// Several optimizers as one: their options, and their state as one list. multi_build.cpp builds them, and
// multi_step.cpp steps them.
#include "engine/multi_state.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/check.hpp"

namespace fusedopt {

MultiOptimizer::State::State(std::vector<std::shared_ptr<Optimizer>> optimizers_,
                             std::optional<double> loss_scale_factor_, std::optional<double> global_clipnorm_,
                             bool skip_nonfinite_)
    : optimizers(std::move(optimizers_)) {
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        if (!optimizers[k]) throw std::invalid_argument("optimizers: expected an optimizer at " + std::to_string(k));
        if (std::find(optimizers.begin(), optimizers.begin() + static_cast<std::ptrdiff_t>(k), optimizers[k]) !=
            optimizers.begin() + static_cast<std::ptrdiff_t>(k)) {
            throw std::invalid_argument("optimizers: expected each optimizer once, found number " + std::to_string(k) +
                                        " twice");
        }
    }
    // By address, so that two groups that share an optimizer cannot wait for each other.
    for (const auto& optimizer : optimizers) in_lock_order.push_back(optimizer.get());
    std::ranges::sort(in_lock_order, std::less<>());
    const Locks locks = lock_all();
    for (const auto& optimizer : optimizers) {
        if (optimizer->state_->is_built)
            throw std::invalid_argument("optimizers: expected unbuilt ones, found one built");
    }
    for (const auto& optimizer : optimizers) optimizer->state_->takeovers.add(takeover);
    set_options(loss_scale_factor_, global_clipnorm_, skip_nonfinite_);
}

void MultiOptimizer::State::set_options(std::optional<double> new_loss_scale_factor,
                                        std::optional<double> new_global_clipnorm, bool new_skip_nonfinite) {
    require_field("loss_scale_factor", new_loss_scale_factor, domains::positive);
    require_field("global_clipnorm", new_global_clipnorm, domains::positive);
    takeovers.require_loss_scale_factor(loss_scale_factor, new_loss_scale_factor);
    const Locks locks = lock_all();
    require_not_stepping("set_options");
    for (std::size_t k = 0; k < optimizers.size() && new_global_clipnorm; ++k) {
        require_no_clip(optimizers[k]->state_->options, "number " + std::to_string(k));
    }
    set_loss_scale_factor(new_loss_scale_factor);
    for (const auto& optimizer : optimizers) optimizer->state_->set_loss_scale_factor(new_loss_scale_factor);
    global_clipnorm = new_global_clipnorm;
    skip_nonfinite = new_skip_nonfinite;
    takeover->clips_norm = global_clipnorm.has_value();
}

void MultiOptimizer::State::set_loss_scale_factor(std::optional<double> factor) {
    loss_scale_factor = factor.value_or(1.0);
}

void MultiOptimizer::State::require_not_stepping(const char* function) const {
    for (const auto& optimizer : optimizers) optimizer->state_->require_not_stepping(function);
}

// It delegates to the default constructor, so that the destructor runs even if a lock cannot be had.
MultiOptimizer::State::Locks::Locks(std::span<Optimizer* const> optimizers) : Locks() {
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        optimizers[k]->state_->mutex.lock();
        held_ = optimizers.first(k + 1);
    }
}

MultiOptimizer::State::Locks::~Locks() {
    for (Optimizer* optimizer : held_) optimizer->state_->mutex.unlock();
}

void MultiOptimizer::State::require_built(const char* function) const {
    if (!is_built)
        throw std::invalid_argument(std::string(function) + ": the optimizer is not built; call build first");
}

std::vector<const Variable*> MultiOptimizer::State::built_variables() const {
    if (ranks) return ranks->whole_variables();
    std::vector<const Variable*> built;
    for (const Place& place : places) built.push_back(&optimizers[place.optimizer]->state_->variables[place.index]);
    return built;
}

void MultiOptimizer::State::rebind(std::span<const Tensor> tensors, std::optional<std::int64_t> builds_then) {
    require_built("rebind");
    const Locks locks = lock_all();
    require_not_stepping("rebind");
    require_latest("rebind", builds_then, builds);
    const Given given = relocated(tensors, built_variables());
    const std::vector<Tensor> pieces = ranks ? ranks->pieces_of(tensors) : given.tensors;
    std::vector<Given> own(optimizers.size());
    for (std::size_t i = 0; i < places.size(); ++i) {
        own[places[i].optimizer].tensors.push_back(pieces[i]);
        own[places[i].optimizer].names.push_back(given.names[i]);
    }
    std::vector<std::vector<Range>> ranges;
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        optimizers[k]->state_->require_apart(given);
        ranges.push_back(sorted_ranges(own[k]));
    }
    if (ranks) ranks->move_to(given);
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        optimizers[k]->state_->move_to(own[k], std::move(ranges[k]));
    }
}

bool MultiOptimizer::State::can_skip() const {
    return skip_nonfinite || std::ranges::any_of(optimizers, [](const auto& optimizer) {
               return optimizer->state_->options.skip_nonfinite;
           });
}

std::vector<NamedTensor> MultiOptimizer::State::listed(Listing listing) {
    const Locks locks = lock_all();
    catch_up_all();
    append_to(listing);
    return listing.tensors();
}

void MultiOptimizer::State::append_to(Listing& listing) {
    const Locks locks = lock_all();
    listing.add_counter("iteration", calls);
    listing.add("learning_rate", learning_rate);
    if (can_skip() && listing.extent() == Extent::complete) listing.add_counter("skipped_steps", skipped_steps);
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        Listing own(listing.extent());
        optimizers[k]->state_->append_to(own);
        listing.append(std::move(own), std::to_string(k) + "/");
    }
}

void MultiOptimizer::State::load(Listing listing, std::span<const Tensor> values) {
    const Locks locks = lock_all();
    fusedopt::load(*this, std::move(listing), values);
}

void MultiOptimizer::State::require_loadable() const {
    require_built("set_weights");
    for (const auto& optimizer : optimizers) optimizer->state_->require_loadable();
}

std::vector<std::vector<double>> MultiOptimizer::State::numbers_after(const Loading& loading) const {
    std::vector<std::vector<double>> after;
    for (const auto& optimizer : optimizers) after.push_back(optimizer->state_->numbers_after(loading));
    return after;
}

void MultiOptimizer::State::settle(const Loading& loading,
                                   const std::vector<std::vector<double>>& loaded_numbers) noexcept {
    for (std::size_t k = 0; k < optimizers.size(); ++k) optimizers[k]->state_->settle(loading, loaded_numbers[k]);
}

void MultiOptimizer::State::between_steps(const std::function<void()>& function) const {
    const Locks locks = lock_all();
    for (const auto& optimizer : optimizers) optimizer->state_->require_training_weights("between_steps");
    function();
}

void MultiOptimizer::State::begin_evaluation() {
    const Locks locks = lock_all();
    const auto require_no_evaluation = [&] {
        for (const auto& optimizer : optimizers) optimizer->state_->require_no_evaluation("begin_evaluation");
    };
    const auto check = [&] {
        require_built("begin_evaluation");
        require_no_evaluation();
        require_evaluation_weights(std::ranges::any_of(
            optimizers, [](const auto& optimizer) { return optimizer->state_->has_evaluation_weights(); }));
        for (const auto& optimizer : optimizers) optimizer->state_->prepare_evaluation();
        require_no_evaluation();
    };
    const auto write = [&] {
        for (const auto& optimizer : optimizers) optimizer->state_->begin_evaluation();
        return is_evaluating = true;
    };
    Ranks::together(ranks.get(), "evaluation_weights", check, write);
}

// A member may have been asked by itself.
bool MultiOptimizer::State::is_any_evaluating() const {
    const Locks locks = lock_all();
    return std::ranges::any_of(optimizers, [](const auto& optimizer) { return optimizer->state_->is_evaluating; });
}

void MultiOptimizer::State::end_evaluation() {
    const Locks locks = lock_all();
    const auto check = [&] { require_evaluating(is_evaluating); };
    const auto write = [&] {
        for (const auto& optimizer : optimizers) {
            if (optimizer->state_->is_evaluating) optimizer->state_->end_evaluation();
        }
        is_evaluating = false;
        return true;
    };
    constexpr bool mends = true;
    Ranks::together(ranks.get(), "the end of evaluation_weights", check, write, mends);
}

void MultiOptimizer::State::catch_up() {
    require_built("catch_up");
    const Locks locks = lock_all();
    for (const auto& optimizer : optimizers) optimizer->state_->require_not_stepping("catch_up");
    for (const auto& optimizer : optimizers) optimizer->state_->catch_up();
}

void MultiOptimizer::State::catch_up_all() {
    const Locks locks = lock_all();
    for (const auto& optimizer : optimizers) optimizer->state_->catch_up_all();
}

void MultiOptimizer::State::catch_up(const Tensor& variable, const Tensor& indices) {
    require_built("catch_up");
    const Locks locks = lock_all();
    optimizers[place_of("catch_up", variable).optimizer]->state_->catch_up(variable, indices);
}

void MultiOptimizer::State::finalize(std::span<const Tensor> tensors) {
    constexpr const char* function = "finalize_variable_values";
    const Locks locks = lock_all();
    const auto check = [&] {
        require_built(function);
        require_not_stepping(function);
        for (const auto& optimizer : optimizers) optimizer->state_->require_training_weights(function);
        require_variables(function, tensors, built_variables());
    };
    const auto write = [&] {
        for (const auto& optimizer : optimizers) optimizer->state_->write_averages();
        return std::ranges::any_of(optimizers, [](const auto& each) { return each->state_->options.use_ema; });
    };
    Ranks::together(ranks.get(), function, check, write);
}

}  // namespace fusedopt
