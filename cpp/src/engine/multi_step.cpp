// One step of several optimizers: which of them gets which gradient, one norm and one decision over all.
#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "engine/check.hpp"
#include "engine/multi_state.hpp"
#include "runtime/float_environment.hpp"

namespace fusedopt {

Place MultiOptimizer::State::place_of(const char* function, const Tensor& tensor) const {
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        const std::size_t index = optimizers[k]->state_->find(tensor);
        if (index != unknown) return {k, index};
    }
    throw std::invalid_argument(std::string(function) +
                                ": expected variables given to build, found an array of shape " +
                                to_string(tensor.shape()) + " in other memory");
}

Place MultiOptimizer::State::place_at(std::size_t position, const Optimizer::Choice& choice) const {
    using Choice = Optimizer::Choice;
    if (const auto* tensors = std::get_if<Choice::Tensors>(&choice.by)) return place_of("apply", (*tensors)[position]);
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

// None if no optimizer updates. It sums in the built order and in units of the largest factor, so that equal factors
// give the bits of one optimizer over all variables.
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

bool MultiOptimizer::State::step(Gradients gradients, const Optimizer::Choice& choice, const Scaling& scaling) {
    if (!ranks) return step_own(gradients, choice, scaling);
    const Locks locks = lock_all();
    const auto check = [&](Facts& facts) {
        require_built("apply");
        facts.add("calls before it", calls);
        facts.add("skips gradients that are not finite", std::int64_t{skip_nonfinite});
        facts.add("global_clipnorm", global_clipnorm.value_or(0.0));
    };
    if (!ranks->sum(gradients, choice, builds, scaling, check)) return true;
    return step_own(ranks->sums(), ranks->choice(), scaling);
}

bool MultiOptimizer::State::step_own(Gradients gradients, const Optimizer::Choice& choice, const Scaling& scaling) {
    if (gradients.empty() && choice.count(0) == 0) return true;
    require_built("apply");
    require_room("apply: iteration", calls);
    require_latest("apply", choice.builds, builds);
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
        check_apart(gradients.values(i), place.optimizer);
        Part& part = parts[place.optimizer];
        if (part.count == part.indices.size()) {  // some variable is there twice
            part.gradients.emplace_back();
            part.indices.emplace_back();
        }
        Gradient& gradient = part.gradients[part.count];
        gradient.values = gradients.values(i);
        if (const Tensor* const rows = gradients.indices(i)) {
            gradient.indices = *rows;
        } else if (gradient.indices) {
            gradient.indices = Tensor();
        }
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
                                std::span<const Gradient>(part.gradients).first(part.count),
                                {std::span(part.indices).first(part.count)},
                                scaling_of_all});
    }
    JointStep joint(participants, ranks.get());
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

}  // namespace fusedopt
