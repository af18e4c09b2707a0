// Building several optimizers as one: which of them gets which variable, and that either all are built or none.
#include "engine/multi_state.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/check.hpp"

namespace fusedopt {

void MultiOptimizer::State::shard(Communicator communicator, bool average) {
    const Locks locks = lock_all();
    if (is_built) throw std::invalid_argument("shard: expected before build, found the optimizer built");
    if (ranks) throw std::invalid_argument("shard: expected once, found the optimizer sharded already");
    std::vector<Optimizer::State*> states;
    for (const auto& optimizer : optimizers) {
        states.push_back(optimizer->state_.get());
        if (states.back()->is_built || states.back()->ranks) {
            throw std::invalid_argument("shard: expected members neither built nor sharded, found one that is");
        }
        Ranks::require_shardable(*states.back());
    }
    ranks = std::make_shared<Ranks>(std::move(communicator), average, states);
    for (Optimizer::State* const state : states) {
        state->ranks = ranks;
        state->is_member = true;
    }
}

void MultiOptimizer::State::build(std::span<const Tensor> tensors, std::span<const std::size_t> assignment,
                                  std::span<const std::string> names) {
    const Locks locks = lock_all();
    std::optional<Construction> made;
    const auto make = [&](const Ranks::Cut& cut) {
        if (assignment.size() != tensors.size() || (!names.empty() && names.size() != tensors.size())) {
            throw std::invalid_argument("build: expected an optimizer, and a name or none, for each of " +
                                        std::to_string(tensors.size()) + " variables");
        }
        require_not_stepping("build");
        for (const auto& optimizer : optimizers) optimizer->state_->require_training_weights("build");
        const std::vector<const Variable*> built = built_variables();
        // All are checked together first, because a variable of one part could overlap one of another.
        const Given given = recognize(tensors, names, built, is_built);
        std::vector<Place> new_places = assigned(given, assignment);
        if (is_built && given.is_same(built)) return;
        made = construct(given, std::move(new_places), cut);
    };
    Ranks::build(ranks.get(), make);
    if (made) adopt(std::move(*made));
}

std::vector<Place> MultiOptimizer::State::assigned(const Given& given, std::span<const std::size_t> assignment) const {
    std::vector<Place> assigned;
    std::vector<std::size_t> counts(optimizers.size());
    for (std::size_t i = 0; i < given.tensors.size(); ++i) {
        const std::size_t k = assignment[i];
        if (k >= optimizers.size()) {
            throw std::invalid_argument("build: expected an optimizer from 0 to " +
                                        std::to_string(optimizers.size() - 1) + " for variable " + std::to_string(i) +
                                        ", found " + std::to_string(k));
        }
        if (given.built[i] != unknown && places[given.built[i]].optimizer != k) {
            throw std::invalid_argument(who_is(i, given.names[i].text) + ": expected optimizer " +
                                        std::to_string(places[given.built[i]].optimizer) +
                                        ", which it was built with, found optimizer " + std::to_string(k));
        }
        assigned.push_back({k, counts[k]++});
    }
    return assigned;
}

MultiOptimizer::State::Construction MultiOptimizer::State::construct(const Given& given, std::vector<Place> new_places,
                                                                     const Ranks::Cut& cut) const {
    Construction made;
    made.places = std::move(new_places);
    std::vector<Given> own(optimizers.size());
    for (std::size_t i = 0; i < given.tensors.size(); ++i) {
        Given& part = own[made.places[i].optimizer];
        part.tensors.push_back(given.tensors[i]);
        part.names.push_back(given.names[i]);
        part.built.push_back(given.built[i] == unknown ? unknown : places[given.built[i]].index);
    }
    // A step copies tensors into these places in any order. A copy of the one with the most dimensions makes room for
    // all.
    for (const Given& part : own) {
        const std::vector<Tensor>& variables = part.tensors;
        const std::vector<Tensor> places_of_part(
            variables.size(), variables.empty() ? Tensor() : *std::ranges::max_element(variables, {}, &Tensor::rank));
        made.parts.push_back({std::vector<Gradient>(places_of_part.begin(), places_of_part.end()),
                              std::vector<std::size_t>(variables.size()), 0, 0.0});
    }
    made.participants.reserve(optimizers.size());
    std::vector<Optimizer::State::Layout> layouts;
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        const Optimizer::State& state = *optimizers[k]->state_;
        if (state.is_built && !is_built) throw std::invalid_argument("build: the optimizer is built already");
        if (state.ranks != ranks) {
            throw std::invalid_argument("build: expected members that are not sharded, found one that is");
        }
        state.require_apart(given);
        layouts.push_back(state.lay_out(own[k], given.tensors));
    }
    if (cut) cut(given, layouts, made.places);
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        made.optimizers.push_back(optimizers[k]->state_->construct(std::move(layouts[k])));
    }
    return made;
}

void MultiOptimizer::State::adopt(Construction&& made) noexcept {
    for (std::size_t k = 0; k < optimizers.size(); ++k) {
        Optimizer::State& state = *optimizers[k]->state_;
        state.adopt(std::move(made.optimizers[k]));
        state.is_idle = state.variables.empty();
        state.is_member = true;
    }
    places = std::move(made.places);
    parts = std::move(made.parts);
    participants = std::move(made.participants);
    is_built = true;
    ++builds;
}

}  // namespace fusedopt
