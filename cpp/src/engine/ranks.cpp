// A sharded optimizer's calls: what ranks must agree on, and the phases of a step with what they exchange in between.
#include "engine/ranks.hpp"

#include <algorithm>
#include <stdexcept>
#include <utility>

#include "engine/stepping.hpp"

namespace fusedopt {

Ranks::Ranks(Communicator communicator, bool average, std::vector<Optimizer::State*> states)
    : agreement_(std::move(communicator)), average_(average), states_(std::move(states)) {}

Ranks& Ranks::of(Ranks* ranks) {
    if (!ranks) throw std::invalid_argument("expected a sharded optimizer, found one of a single process");
    return *ranks;
}

void Ranks::require_whole(const char* function) const {
    if (!is_torn_) return;
    throw std::invalid_argument(std::string(function) +
                                ": expected whole weights, found them torn, as an exchange between ranks has failed in "
                                "an earlier call; load a checkpoint into a new optimizer");
}

bool Ranks::is_variable(std::size_t index, const Tensor& tensor) const {
    const Tensor& own = variables_[index].tensor;
    return tensor.is_contiguous() && own.data() == tensor.data() && own.size_bytes() == tensor.size_bytes();
}

std::size_t Ranks::index_of(std::size_t position, const Tensor& tensor) const {
    if (position < variables_.size() && is_variable(position, tensor)) return position;
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        if (is_variable(i, tensor)) return i;
    }
    throw std::invalid_argument("apply: expected variables given to build, found an array of shape " +
                                to_string(tensor.shape()) + " in other memory");
}

std::size_t Ranks::find(const Optimizer::State& state, const Tensor& tensor) const {
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        if (is_variable(i, tensor) && &state_of(i) == &state) return places_[i].index;
    }
    return unknown;
}

/// Checks the gradients and puts them in the order of build.
void Ranks::take(std::int64_t builds, const Gradients& gradients, const Optimizer::Choice& choice) {
    using Choice = Optimizer::Choice;
    require_latest("apply", choice.builds, builds);
    const std::size_t expected = choice.count(variables_.size());
    if (gradients.size() != expected) {
        throw std::invalid_argument("apply: expected " + std::to_string(expected) +
                                    " gradients, one for each variable, found " + std::to_string(gradients.size()));
    }
    gradients_.assign(variables_.size(), Tensor());
    is_given_.assign(variables_.size(), false);
    for (std::size_t position = 0; position < gradients.size(); ++position) {
        std::size_t index = position;
        if (const auto* tensors = std::get_if<Choice::Tensors>(&choice.by)) {
            index = index_of(position, (*tensors)[position]);
        } else if (const auto* indices = std::get_if<Choice::Indices>(&choice.by)) {
            index = checked_index(*indices, position, variables_.size());
        }
        if (std::exchange(is_given_[index], true) && variables_[index].tensor.size() > 0) {
            throw std::invalid_argument("apply: expected each variable once, found " +
                                        who_is(index, variables_[index].name) + " twice");
        }
        const Tensor& gradient = gradients.values(position);
        if (!gradient) continue;
        if (gradients.indices(position)) {
            throw std::invalid_argument("gradient of " + who_is(index, variables_[index].name) +
                                        ": expected a dense one, as the optimizer is sharded, found one of rows");
        }
        if (!is_checked(variables_[index], gradient)) {
            const auto owns = [&](const Optimizer::State* state) { return state->owns(gradient); };
            check_gradient(index, gradient, variables_, ranges_, std::ranges::any_of(states_, owns));
        }
        gradients_[index] = gradient;
    }
}

bool Ranks::sum(const Gradients& gradients, const Optimizer::Choice& choice, std::int64_t builds,
                const Scaling& scaling, const std::function<void(Facts&)>& check) {
    const bool is_empty = gradients.empty() && choice.count(0) == 0;
    agreement_.on("apply", [&](Facts& facts) {
        require_whole("apply");
        facts.add("no gradients", std::int64_t{is_empty});
        if (is_empty) return false;
        check(facts);
        facts.add("a wrapper skips gradients that are not finite", std::int64_t{scaling.skips_overflow});
        facts.add("factor on the gradients", scaling.unscale);
        for_each_state(facts, [&](const Optimizer::State& state) {
            state.require_not_stepping("apply");
            state.require_training_weights("apply");
            facts.add("calls before it", state.calls);
            facts.add("skips gradients that are not finite", std::int64_t{state.options.skip_nonfinite});
            facts.add("clipnorm", state.options.clipnorm.value_or(0.0));
            facts.add("global_clipnorm", state.options.global_clipnorm.value_or(0.0));
        });
        take(builds, gradients, choice);
        for (std::size_t i = 0; i < gradients_.size(); ++i) {
            facts.add("gradient", gradients_[i] ? to_string(gradients_[i].dtype()) : std::string_view("none"), i);
        }
        reserve_sums();
        return false;
    });
    if (is_empty) return false;
    is_summed_ = !sums_while_writing(scaling);
    if (is_summed_) sum_all_gradients();
    given_.clear();
    sums_.clear();
    for (std::size_t i = 0; i < pieces_.size(); ++i) {
        if (!is_given_[i]) continue;
        given_.push_back(i);
        sums_.push_back(pieces_[i]);
    }
    return true;
}

Optimizer::Choice Ranks::choice() const {
    if (given_.size() == variables_.size()) return {};
    return {std::span(given_)};
}

bool Ranks::measure(std::span<const Participant> participants, const std::function<bool()>& function) {
    const auto needs_norm = [](const Participant& each) { return each.state->needs_norm(each.scaling); };
    const auto skips = [](const Participant& each) { return each.state->skips_overflow(each.scaling); };
    const bool measures = std::ranges::any_of(participants, needs_norm);
    if (!measures && !std::ranges::any_of(participants, skips)) return true;
    if (agreement_.on("apply", [&](Facts&) { return !function(); })) return false;
    if (measures) exchange_squares(participants.front().scaling);
    return true;
}

void Ranks::evaluate(std::span<const Participant> participants, const std::function<void()>& function) {
    agreement_.on("apply", [&](Facts& facts) {
        function();
        for_each_state(facts, [&](const Optimizer::State& state) {
            if (std::ranges::find(participants, &state, &Participant::state) == participants.end()) return;
            if (rounds_at_random(state.options)) {
                facts.add("seed of what is rounded at random", static_cast<std::int64_t>(state.common.front().seed));
            }
            for (const kernel::Step& common : state.common) {
                facts.add("scale", common.scale);
                facts.add("factor on the variables, by learning_rate and weight_decay", common.keep);
                facts.add("clipvalue", common.clipvalue);
                facts.add("ema_momentum", common.ema_momentum);
                facts.add("overwrites with averages", std::int64_t{common.overwrite});
                for (const double scalar : common.scalars.values) {
                    facts.add("number that follows from the hyperparameters and the step", scalar);
                }
            }
        });
        return false;
    });
}

/// True if nothing needs the sums of all gradients before something is written.
bool Ranks::sums_while_writing(const Scaling& scaling) const {
    const Optimizer::State& state = *states_.front();
    const Options& options = state.options;
    const bool measures = options.clipnorm || options.global_clipnorm || scaling.needs_norm;
    return states_.size() == 1 && !measures && !state.skips_overflow(scaling) && !state.procedure;
}

void Ranks::write(std::span<const Participant> participants) {
    std::vector<char> is_written(variables_.size(), false);
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        const Optimizer::State& state = state_of(i);
        if (std::ranges::find(participants, &state, &Participant::state) == participants.end()) continue;
        // Averages replace also variables that have no gradient.
        is_written[i] = state.common.front().overwrite || (state.is_update && gradients_[i]);
    }
    const bool gives_weights = states_.size() == 1 && is_written == is_exchanged_;
    is_torn_ = true;
    if (states_.size() == 1) {
        step_by_windows(*states_.front(), gives_weights);
    } else {
        for (const Participant& participant : participants) participant.state->commit();
    }
    if (!gives_weights) exchange_weights(std::move(is_written));
    is_torn_ = false;
}

void Ranks::together(Ranks* ranks, const char* operation, const std::function<void()>& check,
                     const std::function<bool()>& write, bool mends) {
    if (!ranks) {
        check();
        write();
        return;
    }
    ranks->agreement_.on(operation, [&](Facts&) {
        if (!mends) ranks->require_whole(operation);
        check();
        return false;
    });
    if (write()) ranks->exchange_weights(std::vector<char>(ranks->variables_.size(), true));
}

void Ranks::agree(const std::string& operation, const std::string& lines, const std::string& error) {
    agreement_.on(operation, [&](Facts& facts) {
        if (!error.empty()) throw std::invalid_argument(error);
        facts.add(lines);
        return false;
    });
}

}  // namespace fusedopt
