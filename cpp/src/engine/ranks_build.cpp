// Building a sharded optimizer: what cannot be shared out, how the pieces of this rank are made variables of its own,
// and that all ranks build the same.
#include <algorithm>
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
    if (state.options.row_updates != RowUpdates::lazy) {
        throw std::invalid_argument(
            "shard: expected row_updates lazy, as a sharded optimizer takes no gradients of rows, found caught_up");
    }
}

std::vector<const Variable*> Ranks::whole_variables() const {
    std::vector<const Variable*> whole;
    for (const Variable& variable : variables_) whole.push_back(&variable);
    return whole;
}

/// What is not cut has the shape of its variable on one rank, and no extent on the others, so that slots of rows and of
/// columns are empty, too. Those of a variable without elements need not be, and are rank 0's. All else has one
/// dimension, also a scalar.
std::vector<std::int64_t> Ranks::shape_of_own(std::size_t variable) const {
    const std::int64_t size = own(variable).size();
    const std::span<const std::int64_t> whole = variables_[variable].tensor.shape();
    if (!shares_.is_whole(variable) || whole.empty()) return {size};
    if (size > 0 || (variables_[variable].tensor.size() == 0 && agreement_.rank() == 0)) {
        return {whole.begin(), whole.end()};
    }
    return std::vector<std::int64_t>(whole.size(), 0);
}

std::vector<Tensor> Ranks::pieces_of(std::span<const Tensor> tensors) const {
    std::vector<Tensor> pieces;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        // An empty piece lies where its variable begins, where no other one does.
        const auto offset = own(i).begin * static_cast<std::int64_t>(item_size(tensors[i].dtype()));
        void* const data = static_cast<std::byte*>(tensors[i].data()) + offset;
        pieces.emplace_back(data, tensors[i].dtype(), shape_of_own(i));
    }
    return pieces;
}

void Ranks::build(Optimizer::State& state, std::span<const Tensor> tensors, std::span<const std::string> names) {
    std::optional<Optimizer::State::Construction> made;
    bool is_same = false;
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
        Optimizer::State::Layout layout = state.lay_out(given, tensors);
        variables_ = layout.variables;
        std::vector<Cost> costs;
        for (const Variable& variable : variables_) costs.push_back(state.branches[variable.branch].cost);
        shares_ = Shares(variables_, costs, agreement_.size(), given.built, shares_);
        describe(state.rule, state.options, facts);
        facts.add("average", std::int64_t{average_});
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            facts.add(who_is(i, variables_[i].name) + ": " + std::string(to_string(tensors[i].dtype())) + " of shape " +
                      to_string(tensors[i].shape()) + (variables_[i].decays ? "" : ", without decay"));
        }
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            const std::uint64_t sum = checksum(tensors[i].data(), static_cast<std::size_t>(tensors[i].size_bytes()));
            facts.add("checksum of the values", static_cast<std::int64_t>(sum), i);
            facts.add("branch of the rule", std::int64_t{variables_[i].branch}, i);
        }
        const Given pieces{pieces_of(tensors), given.names, given.built};
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            layout.variables[i].tensor = pieces.tensors[i];
            layout.variables[i].begin = own(i).begin;
        }
        layout.ranges = sorted_ranges(pieces);
        made = state.construct(std::move(layout));
        return false;
    };
    try {
        agreement_.on("build", construct);
    } catch (...) {
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
