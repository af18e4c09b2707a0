// Several optimizers as one: what each gets of a call, one norm and one decision over all, and their state as one list.
// One file, though long: the second half only locks and hands on, as optimizer.cpp does for one optimizer.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "engine/check.hpp"
#include "engine/multi_state.hpp"
#include "runtime/float_environment.hpp"

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

// Through the default constructor, so that the destructor runs even if a lock cannot be had.
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

void MultiOptimizer::State::build(std::span<const Tensor> tensors, std::span<const std::size_t> assignment,
                                  std::span<const std::string> names) {
    if (assignment.size() != tensors.size() || (!names.empty() && names.size() != tensors.size())) {
        throw std::invalid_argument("build: expected an optimizer, and a name or none, for each of " +
                                    std::to_string(tensors.size()) + " variables");
    }
    const Locks locks = lock_all();
    for (const auto& optimizer : optimizers) optimizer->state_->require_not_stepping("build");
    std::vector<const Variable*> built;
    for (const Place& place : places) built.push_back(&optimizers[place.optimizer]->state_->variables[place.index]);
    // All together first: a variable of one part could overlap one of another.
    const Given given = recognize(tensors, names, built, is_built);
    std::vector<Given> own(optimizers.size());
    std::vector<Place> new_places;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const std::size_t k = assignment[i];
        if (k >= optimizers.size()) {
            throw std::invalid_argument("build: expected an optimizer from 0 to " +
                                        std::to_string(optimizers.size() - 1) + " for variable " + std::to_string(i) +
                                        ", found " + std::to_string(k));
        }
        const bool is_new = given.built[i] == unknown;
        if (!is_new && places[given.built[i]].optimizer != k) {
            throw std::invalid_argument(who_is(i, given.names[i].text) + ": expected optimizer " +
                                        std::to_string(places[given.built[i]].optimizer) +
                                        ", which it was built with, found optimizer " + std::to_string(k));
        }
        new_places.push_back({k, own[k].tensors.size()});
        own[k].tensors.push_back(tensors[i]);
        own[k].names.push_back(given.names[i]);
        own[k].built.push_back(is_new ? unknown : places[given.built[i]].index);
    }
    if (is_built && given.is_same(built)) return;
    // A step copies tensors into these places in any order; a copy of the one with the most dimensions makes room.
    std::vector<Part> new_parts;
    for (const Given& part : own) {
        const std::vector<Tensor>& variables = part.tensors;
        const std::vector<Tensor> places_of_part(
            variables.size(), variables.empty() ? Tensor() : *std::ranges::max_element(variables, {}, &Tensor::rank));
        new_parts.push_back({places_of_part, std::vector<std::size_t>(variables.size()), 0, 0.0});
    }
    std::vector<Participant> new_participants;
    new_participants.reserve(optimizers.size());
    std::vector<Optimizer::State::Construction> made;
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        const Optimizer::State& state = *optimizers[k]->state_;
        if (state.is_built && !is_built) throw std::invalid_argument("build: the optimizer is built already");
        state.require_apart(given);
        made.push_back(state.construct(own[k], tensors));
    }
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        optimizers[k]->state_->adopt(std::move(made[k]));
        optimizers[k]->state_->is_idle = own[k].tensors.empty();
        optimizers[k]->state_->is_member = true;
    }
    places = std::move(new_places);
    parts = std::move(new_parts);
    participants = std::move(new_participants);
    is_built = true;
}

MultiOptimizer::State::Place MultiOptimizer::State::place_of(const Tensor& tensor) const {
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        const std::size_t index = optimizers[k]->state_->find(tensor);
        if (index != unknown) return {k, index};
    }
    throw std::invalid_argument("apply: expected variables given to build, found an array of shape " +
                                to_string(tensor.shape()) + " in other memory");
}

MultiOptimizer::State::Place MultiOptimizer::State::place_at(std::size_t position,
                                                             const Optimizer::Choice& choice) const {
    using Choice = Optimizer::Choice;
    if (const auto* tensors = std::get_if<Choice::Tensors>(&choice.by)) return place_of((*tensors)[position]);
    const auto* indices = std::get_if<Choice::Indices>(&choice.by);
    return places[indices ? checked_index(*indices, position, places.size()) : position];
}

// Its own optimizer checks a gradient against its own variables.
void MultiOptimizer::State::check_apart(const Tensor& gradient, std::size_t owner) const {
    for (std::size_t k = 0; k < optimizers.size() && gradient; ++k) {
        const Optimizer::State& other = *optimizers[k]->state_;
        if (k == owner) continue;
        if (const std::size_t overlapped = other.overlapped_by(gradient); overlapped != unknown) {
            throw std::invalid_argument("apply: expected gradients apart from the variables, found one overlapping '" +
                                        other.variables[overlapped].name + "'");
        }
        if (other.owns(gradient)) {
            throw std::invalid_argument(
                "apply: expected gradients apart from the optimizers' state, found one "
                "overlapping it");
        }
    }
}

// None if no optimizer updates. In the built order and in units of the largest factor, so that equal factors give the
// bits of one optimizer over all variables.
std::optional<double> MultiOptimizer::State::measured_norm() {
    const FloatEnvironment environment;
    double unit = 0.0;
    for (Part& part : parts) part.factor = 0.0;
    for (const Participant& participant : participants)
        unit = std::max(unit, participant.state->is_update ? participant.factor() : 0.0);
    if (unit == 0.0) return std::nullopt;
    for (std::size_t k = 0, s = 0; k < parts.size(); ++k) {
        if (parts[k].count == 0) continue;
        const Participant& participant = participants[s++];
        if (participant.state->is_update) parts[k].factor = participant.factor() / unit;
    }
    double sum = 0.0;
    for (const Place& place : places) {
        const double factor = parts[place.optimizer].factor;
        if (factor == 0.0) continue;
        sum += factor * (factor * optimizers[place.optimizer]->state_->sum_of_squares(place.index));
    }
    return unit * std::sqrt(sum);
}

bool MultiOptimizer::State::step(std::span<const Tensor> gradients, const Optimizer::Choice& choice,
                                 const Scaling& scaling) {
    if (gradients.empty() && choice.count(0) == 0) return true;
    require_built("apply");
    require_room("apply: iteration", calls);
    const std::size_t expected = choice.count(places.size());
    if (gradients.size() != expected) {
        throw std::invalid_argument("apply: expected " + std::to_string(expected) +
                                    " gradients, one for each variable, found " + std::to_string(gradients.size()));
    }
    const Locks locks = lock_all();
    // A step in progress still uses the parts.
    require_not_stepping("apply");
    for (Part& part : parts) part.count = 0;
    for (std::size_t i = 0; i < gradients.size(); ++i) {
        const Place place = place_at(i, choice);
        check_apart(gradients[i], place.optimizer);
        Part& part = parts[place.optimizer];
        if (part.count == part.indices.size()) {  // some variable is there twice
            part.gradients.emplace_back();
            part.indices.emplace_back();
        }
        part.gradients[part.count] = gradients[i];
        part.indices[part.count] = place.index;
        ++part.count;
    }
    const Scaling scaling_of_all{scaling.unscale, scaling.skips_overflow || skip_nonfinite,
                                 global_clipnorm.has_value()};
    participants.clear();
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        const Part& part = parts[k];
        if (part.count == 0) continue;
        participants.push_back({optimizers[k]->state_.get(),
                                std::span(part.gradients).first(part.count),
                                {std::span(part.indices).first(part.count)},
                                scaling_of_all});
    }
    JointStep joint(participants);
    if (!joint.prepare()) {
        if (!scaling.skips_overflow) count_skipped_step();
        return false;
    }
    const std::optional<double> norm = global_clipnorm ? measured_norm() : std::nullopt;
    if (norm) {
        for (Participant& participant : participants)
            participant.scaling.clip_factor = global_clip_factor(*norm, *global_clipnorm);
    }
    joint.finish();
    if (norm) global_norm = norm;
    ++calls;
    return true;
}

void MultiOptimizer::State::count_skipped_step() {
    ++skipped_steps;
    for (const Participant& participant : participants) {
        if (participant.state->options.skip_nonfinite) ++participant.state->skipped_steps;
    }
}

bool MultiOptimizer::State::can_skip() const {
    return skip_nonfinite || std::ranges::any_of(optimizers, [](const auto& optimizer) {
               return optimizer->state_->options.skip_nonfinite;
           });
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
    require_built("begin_evaluation");
    const auto require_no_evaluation = [&] {
        for (const auto& optimizer : optimizers) optimizer->state_->require_no_evaluation("begin_evaluation");
    };
    require_no_evaluation();
    require_evaluation_weights(std::ranges::any_of(
        optimizers, [](const auto& optimizer) { return optimizer->state_->has_evaluation_weights(); }));
    for (const auto& optimizer : optimizers) optimizer->state_->prepare_evaluation();
    require_no_evaluation();
    for (const auto& optimizer : optimizers) optimizer->state_->begin_evaluation();
    is_evaluating = true;
}

// A member may have been asked by itself.
bool MultiOptimizer::State::is_any_evaluating() const {
    const Locks locks = lock_all();
    return std::ranges::any_of(optimizers, [](const auto& optimizer) { return optimizer->state_->is_evaluating; });
}

void MultiOptimizer::State::end_evaluation() {
    const Locks locks = lock_all();
    require_evaluating(is_evaluating);
    for (const auto& optimizer : optimizers) {
        if (optimizer->state_->is_evaluating) optimizer->state_->end_evaluation();
    }
    is_evaluating = false;
}

void MultiOptimizer::State::finalize(std::span<const Tensor> tensors) {
    require_built("finalize_variable_values");
    if (tensors.size() != places.size()) {
        throw std::invalid_argument("finalize_variable_values: expected " + std::to_string(places.size()) +
                                    " variables, found " + std::to_string(tensors.size()));
    }
    const Locks locks = lock_all();
    std::vector<std::vector<Tensor>> own(optimizers.size());
    for (std::size_t i = 0; i < tensors.size(); ++i) own[places[i].optimizer].push_back(tensors[i]);
    for (std::size_t k = 0; k < optimizers.size(); ++k) optimizers[k]->state_->check_finalized(own[k]);
    for (std::size_t k = 0; k < optimizers.size(); ++k) optimizers[k]->state_->finalize(own[k]);
}

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

bool MultiOptimizer::built() const {
    const std::lock_guard lock(state_->mutex);
    return state_->is_built;
}

bool MultiOptimizer::apply(std::span<const Tensor> gradients) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {}, {reciprocal(state_->loss_scale_factor), false});
}

bool MultiOptimizer::apply(std::span<const Tensor> gradients, std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {variables}, {reciprocal(state_->loss_scale_factor), false});
}

bool MultiOptimizer::apply(std::span<const Tensor> gradients, std::span<const std::size_t> indices) {
    const std::lock_guard lock(state_->mutex);
    return state_->step(gradients, {indices}, {reciprocal(state_->loss_scale_factor), false});
}

std::span<const std::shared_ptr<Optimizer>> MultiOptimizer::optimizers() const {
    return state_->optimizers;
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
    Listing listing(Extent::keras);
    state_->append_to(listing);
    return listing.tensors();
}

void MultiOptimizer::set_weights(std::span<const Tensor> values) {
    const std::lock_guard lock(state_->mutex);
    state_->load(Listing(Extent::keras), values);
}

std::vector<NamedTensor> MultiOptimizer::state() const {
    const std::lock_guard lock(state_->mutex);
    Listing listing(Extent::complete);
    state_->append_to(listing);
    return listing.tensors();
}

void MultiOptimizer::set_state(std::span<const Tensor> values) {
    const std::lock_guard lock(state_->mutex);
    state_->load(Listing(Extent::complete), values);
}

void MultiOptimizer::between_steps(const std::function<void()>& function) const {
    const std::lock_guard lock(state_->mutex);
    state_->between_steps(function);
}

void MultiOptimizer::finalize_variable_values(std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    state_->finalize(variables);
}

}  // namespace fusedopt
