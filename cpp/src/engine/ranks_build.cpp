// Building a sharded optimizer: what cannot be shared out, which piece of each variable is this rank's, and that all
// ranks build the same.
#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>
#include <utility>

#include <fusedopt/runtime.hpp>

#include "engine/ranks.hpp"
#include "engine/state.hpp"
#include "rules/any_field.hpp"

namespace fusedopt {
namespace {

void show(std::ostream& out, bool value) {
    out << (value ? "true" : "false");
}
void show(std::ostream& out, double value) {
    out << value;
}
void show(std::ostream& out, std::int64_t value) {
    out << value;
}
void show(std::ostream& out, DType value) {
    out << to_string(value);
}
void show(std::ostream& out, RowUpdates value) {
    out << to_string(value);
}
void show(std::ostream& out, SlotDType value) {
    out << to_string(value);
}
void show(std::ostream& out, const std::map<std::string, SlotDType>& value) {
    for (const auto& [name, slot_dtype] : value) out << name << " in " << to_string(slot_dtype) << ", ";
}
void show(std::ostream& out, const Hyperparameter& value) {
    value.is_number() ? out << value.value() : out << "a function";
}
template <class Result, class... Arguments>
void show(std::ostream& out, const std::function<Result(Arguments...)>&) {
    out << "a function";
}
template <class Value>
void show(std::ostream& out, const std::optional<Value>& value) {
    value ? show(out, *value) : void(out << "none");
}

void add_fields(const std::vector<AnyField>& fields, Facts& facts) {
    for (const AnyField& field : fields) {
        std::ostringstream line;
        line.precision(std::numeric_limits<double>::max_digits10);
        line << field.name << " = ";
        field.visit([&](const auto& value) { show(line, value); });
        facts.add(line.str());
    }
}

// A description with all that shapes state. The learning rate is compared in each step.
void describe(const Rule& rule, const Options& options, Facts& facts) {
    facts.add("fusedopt " + std::string(version()));
    Rule copy_of_rule = rule;
    Options copy_of_options = options;
    facts.add(std::string(definition_of(rule).name));
    add_fields(definition_of(rule).fields(copy_of_rule), facts);
    add_fields(fields_of(copy_of_options), facts);
}

}  // namespace

void Ranks::require_shardable(const Optimizer::State& state) {
    const AnyDefinition& definition = definition_of(state.rule);
    const auto refuse = [](const std::string& expected, const std::string& found) {
        throw std::invalid_argument("shard: expected " + expected + ", found " + found);
    };
    const std::string by_element = "a rule that goes element by element";
    if (std::ranges::any_of(state.branches, &RuleSpec::is_rowwise)) {
        refuse(by_element, std::string(definition.name) + " with rowwise, which needs whole rows");
    }
    if (state.branches.size() > 1 || definition.procedure(state.rule, {}, {})) {
        refuse(by_element, std::string(definition.name) + ", which needs whole variables");
    }
    if (asks_for_codes(state.options)) refuse("slot_dtype float32, as codes cannot be shared out", "fewer bits");
    if (!state.options.master) refuse("master to be true, as variables without it cannot be shared out", "false");
    if (state.options.row_updates != RowUpdates::lazy) {
        refuse("row_updates lazy, as a sharded optimizer takes no gradients of rows", "caught_up");
    }
}

std::vector<const Variable*> Ranks::whole_variables() const {
    std::vector<const Variable*> whole;
    for (const Variable& variable : variables_) whole.push_back(&variable);
    return whole;
}

std::vector<Tensor> Ranks::pieces_of(std::span<const Tensor> tensors) const {
    std::vector<Tensor> pieces;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const std::array shape{own(i).size()};
        auto* const data = static_cast<std::byte*>(tensors[i].data());
        const auto offset = own(i).begin * static_cast<std::int64_t>(item_size(tensors[i].dtype()));
        // An empty piece lies where its variable begins, where no other one does.
        pieces.emplace_back(static_cast<void*>(shape[0] > 0 ? data + offset : data), tensors[i].dtype(), shape);
    }
    return pieces;
}

void Ranks::build(Optimizer::State& state, std::span<const Tensor> tensors, std::span<const std::string> names) {
    std::optional<Optimizer::State::Construction> made;
    bool is_same = false;
    const std::vector<Tensor> excluded = state.excluded;
    const auto construct = [&](Facts& facts) {
        state.require_not_stepping("build");
        state.require_training_weights("build");
        const std::vector<const Variable*> built = whole_variables();
        const Given given = recognize(tensors, names, built, state.is_built);
        is_same = state.is_built && given.is_same(built);
        facts.add("the same variables again", std::int64_t{is_same});
        if (is_same) return false;
        require_shardable(state);
        if (state.is_built) {
            throw std::invalid_argument(
                "build: expected the variables of the first build, as a sharded optimizer takes no more, found others; "
                "make a new optimizer");
        }
        SweepPlan plan;
        variables_.clear();
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            plan.add(i, tensors[i].size());
            variables_.push_back(
                {nullptr, DType::float32, true, 0, tensors[i], given.names[i].text, given.names[i].is_given});
        }
        borders_.clear();
        const auto ranks = static_cast<std::int64_t>(agreement_.size());
        for (std::int64_t k = 0; k <= ranks; ++k) {
            borders_.push_back(plan.border(k, ranks));
            borders_.back().variable = std::min(borders_.back().variable, tensors.size());
        }
        const std::vector<Tensor> pieces = pieces_of(tensors);
        for (Tensor& tensor : state.excluded) {
            const std::size_t index = index_of("exclude_from_weight_decay", tensor);
            tensor = pieces[index];
            variables_[index].decays = false;
        }
        describe(state.rule, state.options, facts);
        facts.add("average", std::int64_t{average_});
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            facts.add(who_is(i, variables_[i].name) + ": " + std::string(to_string(tensors[i].dtype())) + " of shape " +
                      to_string(tensors[i].shape()) + (variables_[i].decays ? "" : ", without decay"));
        }
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            const std::uint64_t sum = checksum(tensors[i].data(), static_cast<std::size_t>(tensors[i].size_bytes()));
            facts.add("checksum of the values", static_cast<std::int64_t>(sum), i);
        }
        std::int64_t largest = 0;
        for (const Tensor& tensor : tensors) {
            largest = std::max(largest, static_cast<std::int64_t>(item_size(tensor.dtype())));
        }
        reserve_exchanges(largest);
        is_exchanged_.clear();  // and so the windows of other borders
        made = state.construct(recognize(pieces, names, {}, false), pieces);
        return false;
    };
    try {
        agreement_.on("build", construct);
    } catch (...) {
        state.excluded = excluded;
        if (!state.is_built) variables_.clear();
        throw;
    }
    if (!is_same) state.adopt(std::move(*made));
}

void Ranks::rebind(Optimizer::State& state, std::span<const Tensor> tensors, std::optional<std::int64_t> builds_then) {
    state.require_built("rebind");
    const Given given = relocated(tensors, whole_variables());
    state.rebind_own(pieces_of(tensors), builds_then);
    for (std::size_t i = 0; i < tensors.size(); ++i) variables_[i].tensor.move_to(given.tensors[i].data());
}

}  // namespace fusedopt
