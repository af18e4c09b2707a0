// Building a sharded optimizer: what cannot be shared out, how the pieces of this rank are made variables of its own,
// and that all ranks build the same.
#include <algorithm>
#include <array>
#include <functional>
#include <limits>
#include <map>
#include <sstream>
#include <stdexcept>
#include <tuple>

#include <fusedopt/runtime.hpp>

#include "engine/plan.hpp"
#include "engine/ranks.hpp"
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
    facts.add(name_of(rule));
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
std::vector<std::int64_t> Ranks::piece_shape(std::size_t variable) const {
    static_cast<void>(checked_index(std::span(&variable, 1), 0, variables_.size()));
    const Tensor& tensor = variables_[variable].tensor;
    const std::int64_t size = own(variable).size();
    const bool is_empty = tensor.size() == 0;
    if (!is_empty && (!shares_.is_whole(variable) || tensor.rank() == 0)) return {size};
    if (size > 0 || (is_empty && agreement_.rank() == 0)) return {tensor.shape().begin(), tensor.shape().end()};
    return std::vector<std::int64_t>(tensor.rank(), 0);
}

std::vector<Tensor> Ranks::pieces_of(std::span<const Tensor> tensors) const {
    std::vector<Tensor> pieces;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        // An empty piece lies where its variable begins, where no other one does.
        const auto offset = own(i).begin * static_cast<std::int64_t>(item_size(tensors[i].dtype()));
        void* const data = static_cast<std::byte*>(tensors[i].data()) + offset;
        pieces.emplace_back(data, tensors[i].dtype(), piece_shape(i));
    }
    return pieces;
}

/// Null for a variable that is cut.
std::vector<Cost> Ranks::costs() const {
    std::vector<Cost> costs;
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        costs.push_back(state_of(i).branches[variables_[i].branch].cost);
    }
    return costs;
}

void Ranks::cut(const Given& given, std::span<Optimizer::State::Layout> layouts, std::span<const Place> places,
                Facts& facts) {
    facts.add("new variables");
    for_each_state(facts, [&](const Optimizer::State& state) {
        require_shardable(state);
        describe(state.rule, state.options, facts);
    });
    facts.add("average", std::int64_t{average_});
    variables_.clear();
    places_.assign(places.begin(), places.end());
    for (std::size_t i = 0; i < given.tensors.size(); ++i) {
        if (places.empty()) places_.push_back({0, i});
        variables_.push_back(layouts[places_[i].optimizer].variables[places_[i].index]);
        variables_[i].tensor = given.tensors[i];
    }
    ranges_ = sorted_ranges(given);
    shares_ = Shares(variables_, costs(), agreement_.size(), given.built, std::exchange(shares_, Shares()));
    const std::vector<Tensor> pieces = pieces_of(given.tensors);
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        const Variable& variable = variables_[i];
        Variable& of_layout = layouts[places_[i].optimizer].variables[places_[i].index];
        of_layout.tensor = pieces[i];
        of_layout.begin = own(i).begin;
        facts.add(who_is(i, variable.name) + ": " + std::string(to_string(variable.tensor.dtype())) + " of shape " +
                  to_string(variable.tensor.shape()) + (variable.decays ? "" : ", without decay") +
                  (given.built[i] == unknown ? "" : ", built as variable " + std::to_string(given.built[i])) +
                  (states_.size() == 1 ? "" : ", of optimizer " + std::to_string(places_[i].optimizer)));
    }
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        const Tensor& tensor = variables_[i].tensor;
        const std::uint64_t sum = checksum(tensor.data(), static_cast<std::size_t>(tensor.size_bytes()));
        facts.add("checksum of the values", static_cast<std::int64_t>(sum), i);
        facts.add("branch of the rule", std::int64_t{variables_[i].branch}, i);
    }
    std::int64_t largest = 0;
    for (const Variable& variable : variables_) {
        largest = std::max(largest, static_cast<std::int64_t>(item_size(variable.tensor.dtype())));
    }
    reserve_exchanges(largest);
    is_exchanged_.clear();  // and so the windows of other borders
    for (Optimizer::State::Layout& layout : layouts) {
        Given own;
        for (const Variable& variable : layout.variables) {
            own.tensors.push_back(variable.tensor);
            own.names.push_back({variable.name, variable.is_named});
        }
        layout.ranges = sorted_ranges(own);
    }
}

void Ranks::build(Ranks* ranks, const std::function<void(const Cut& cut)>& make) {
    if (!ranks) return make({});
    const auto before = std::tuple(ranks->variables_, ranks->places_, ranks->shares_, ranks->ranges_);
    try {
        ranks->agreement_.on("build", [&](Facts& facts) {
            bool is_same = true;
            make([&](const Given& given, std::span<Optimizer::State::Layout> layouts, std::span<const Place> places) {
                is_same = false;
                ranks->cut(given, layouts, places, facts);
            });
            if (is_same) facts.add("the same variables again");
            return false;
        });
    } catch (...) {
        std::tie(ranks->variables_, ranks->places_, ranks->shares_, ranks->ranges_) = before;
        throw;
    }
}

void Ranks::move_to(const Given& given) {
    ranges_ = sorted_ranges(given);
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        variables_[i].tensor.move_to(given.tensors[i].data());
        variables_[i].checked_gradient = nullptr;
    }
}

}  // namespace fusedopt
