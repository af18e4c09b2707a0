// A sharded optimizer's calls: what ranks must agree on, and the phases of a step with what they exchange in between.
#include "engine/ranks.hpp"

#include <stdexcept>
#include <utility>

#include "engine/check.hpp"
#include "engine/state.hpp"
#include "engine/stepping.hpp"

namespace fusedopt {

Ranks::Ranks(Communicator communicator, bool average) : agreement_(std::move(communicator)), average_(average) {}

Ranks& Ranks::of(const Optimizer::State& state) {
    if (!state.ranks) throw std::invalid_argument("expected a sharded optimizer, found one of a single process");
    return *state.ranks;
}

void Ranks::require_whole(const char* function) const {
    if (!is_torn_) return;
    throw std::invalid_argument(std::string(function) +
                                ": expected whole weights, found them torn, as an exchange between ranks has failed in "
                                "an earlier call; load a checkpoint into a new optimizer");
}

std::size_t Ranks::index_of(const char* function, const Tensor& tensor) const {
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        const Tensor& own = variables_[i].tensor;
        if (own.data() == tensor.data() && own.size_bytes() == tensor.size_bytes()) return i;
    }
    throw std::invalid_argument(std::string(function) +
                                ": expected variables given to build, found an array of shape " +
                                to_string(tensor.shape()) + " in other memory");
}

void Ranks::require_variables(const char* function, std::span<const Tensor> tensors) const {
    if (tensors.size() != variables_.size()) {
        throw std::invalid_argument(std::string(function) + ": expected " + std::to_string(variables_.size()) +
                                    " variables, found " + std::to_string(tensors.size()));
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (tensors[i].size() > 0 && index_of(function, tensors[i]) == i) continue;
        if (tensors[i].size() == 0 && variables_[i].tensor.size() == 0) continue;
        throw std::invalid_argument(std::string(function) +
                                    ": expected the built variables in their order, found another array in the place "
                                    "of " +
                                    who_is(i, variables_[i].name));
    }
}

void Ranks::check_gradient(std::size_t index, const Tensor& gradient, const Tensor* rows) const {
    const Variable& variable = variables_[index];
    const auto who = [&] { return "gradient of " + who_is(index, variable.name); };
    if (rows) {
        throw std::invalid_argument(who() + ": expected a dense one, as the optimizer is sharded, found one of rows");
    }
    if (!same_shape(gradient, variable.tensor)) {
        throw std::invalid_argument(who() + ": expected shape " + to_string(variable.tensor.shape()) + ", found " +
                                    to_string(gradient.shape()));
    }
    if (!is_floating(gradient.dtype())) {
        throw std::invalid_argument(who() + ": expected float16, bfloat16, float32 or float64, found " +
                                    std::string(to_string(gradient.dtype())));
    }
}

/// Checks the gradients and puts them in the order of build.
void Ranks::take(const Optimizer::State& state, Gradients gradients, const Optimizer::Choice& choice) {
    using Choice = Optimizer::Choice;
    require_latest("apply", choice.builds, state.builds);
    const std::size_t expected = choice.count(variables_.size());
    if (gradients.size() != expected) {
        throw std::invalid_argument("apply: expected " + std::to_string(expected) +
                                    " gradients, one for each variable, found " + std::to_string(gradients.size()));
    }
    gradients_.assign(variables_.size(), Tensor());
    std::vector<char> is_given(variables_.size(), false);
    for (std::size_t position = 0; position < gradients.size(); ++position) {
        std::size_t index = position;
        if (const auto* tensors = std::get_if<Choice::Tensors>(&choice.by)) {
            index = index_of("apply", (*tensors)[position]);
        } else if (const auto* indices = std::get_if<Choice::Indices>(&choice.by)) {
            index = checked_index(*indices, position, variables_.size());
        }
        if (std::exchange(is_given[index], true) && variables_[index].tensor.size() > 0) {
            throw std::invalid_argument("apply: expected each variable once, found " +
                                        who_is(index, variables_[index].name) + " twice");
        }
        const Tensor& gradient = gradients.values(position);
        if (!gradient) continue;
        check_gradient(index, gradient, gradients.indices(position));
        gradients_[index] = gradient;
    }
}

bool Ranks::step(Optimizer::State& state, Gradients gradients, const Optimizer::Choice& choice,
                 const Scaling& scaling) {
    const bool is_empty = gradients.empty() && choice.count(0) == 0;
    agreement_.on("apply", [&](Facts& facts) {
        require_whole("apply");
        facts.add("no gradients", std::int64_t{is_empty});
        if (is_empty) return false;
        state.require_built("apply");
        state.require_not_stepping("apply");
        state.require_training_weights("apply");
        take(state, gradients, choice);
        facts.add("calls before it", state.calls);
        facts.add("skips gradients that are not finite",
                  std::int64_t{state.options.skip_nonfinite || scaling.skips_overflow});
        facts.add("clipnorm", state.options.clipnorm.value_or(0.0));
        facts.add("global_clipnorm", state.options.global_clipnorm.value_or(0.0));
        facts.add("factor on the gradients", scaling.unscale);
        for (std::size_t i = 0; i < gradients_.size(); ++i) {
            facts.add("gradient", gradients_[i] ? to_string(gradients_[i].dtype()) : std::string_view("none"), i);
        }
        return false;
    });
    if (is_empty) return true;
    sum_gradients();
    Participant participant{&state, pieces_, {}, scaling};
    std::optional<JointStep> joint;
    const auto prepare = [&](Facts&) {
        joint.emplace(std::span<const Participant>(&participant, 1));
        return !joint->prepare();
    };
    const bool is_update = (state.calls + 1) % state.accumulation_steps == 0;
    const bool clips = is_update && (state.options.clipnorm || state.options.global_clipnorm);
    const bool skips = state.options.skip_nonfinite || scaling.skips_overflow;
    if (clips || skips) {
        if (agreement_.on("apply", prepare)) {
            if (!scaling.skips_overflow) ++state.skipped_steps;
            return false;
        }
    }
    if (clips) {
        exchange_squares(state);
        participant.scaling.sums_of_squares = sums_of_squares_;
    }
    agreement_.on("apply", [&](Facts& facts) {
        if (!joint) prepare(facts);
        state.evaluate(participant.scaling);
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
        return false;
    });
    state.commit();
    if (state.common.front().overwrite) {
        exchange_all_weights();  // averages replace also those that have no gradient
    } else if (is_update) {
        exchange_weights();  // of the variables that have gradients
    }
    return true;
}

void Ranks::finalize(Optimizer::State& state, std::span<const Tensor> tensors) {
    agreement_.on("finalize_variable_values", [&](Facts&) {
        state.require_built("finalize_variable_values");
        state.require_not_stepping("finalize_variable_values");
        state.require_training_weights("finalize_variable_values");
        require_whole("finalize_variable_values");
        require_variables("finalize_variable_values", tensors);
        return false;
    });
    state.finalize_own(pieces_of(tensors));
    if (state.options.use_ema) exchange_all_weights();
}

void Ranks::begin_evaluation(Optimizer::State& state) {
    agreement_.on("evaluation_weights", [&](Facts&) {
        require_whole("evaluation_weights");
        state.require_no_evaluation("begin_evaluation");
        require_evaluation_weights(state.has_evaluation_weights());
        state.prepare_evaluation();
        state.require_no_evaluation("begin_evaluation");
        return false;
    });
    state.begin_evaluation();
    exchange_all_weights();
}

void Ranks::end_evaluation(Optimizer::State& state) {
    agreement_.on("the end of evaluation_weights", [&](Facts&) {
        require_evaluating(state.is_evaluating);
        return false;
    });
    state.end_evaluation();
    exchange_all_weights();
}

void Ranks::agree(const std::string& operation, const std::string& lines, const std::string& error) {
    agreement_.on(operation, [&](Facts& facts) {
        if (!error.empty()) throw std::invalid_argument(error);
        facts.add(lines);
        return false;
    });
}

}  // namespace fusedopt
