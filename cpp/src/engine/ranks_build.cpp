// Building a sharded optimizer: what cannot be shared out, which piece of each variable is this rank's, and that all
// ranks build the same.
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

/// Variables that are built keep their borders. New ones are shared out among themselves, at borders of tiles.
void Ranks::cut_new(std::span<const std::size_t> built, std::span<const std::vector<std::int64_t>> old_borders) {
    SweepPlan plan;
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        if (built[i] == unknown) plan.add(i, variables_[i].tensor.size());
    }
    borders_.assign(variables_.size(), {});
    const auto ranks = static_cast<std::int64_t>(agreement_.size());
    for (std::int64_t k = 0; k <= ranks; ++k) {
        const SweepPlan::Border border = plan.border(k, ranks);
        for (std::size_t i = 0; i < variables_.size(); ++i) {
            const bool is_before = i < border.variable;
            borders_[i].push_back(i == border.variable ? border.element : is_before ? variables_[i].tensor.size() : 0);
        }
    }
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        if (built[i] != unknown) borders_[i] = old_borders[built[i]];
    }
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
    cut_new(given.built, std::vector(borders_));
    const std::vector<Tensor> pieces = pieces_of(given.tensors);
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        const Variable& variable = variables_[i];
        layouts[places_[i].optimizer].variables[places_[i].index].tensor = pieces[i];
        facts.add(who_is(i, variable.name) + ": " + std::string(to_string(variable.tensor.dtype())) + " of shape " +
                  to_string(variable.tensor.shape()) + (variable.decays ? "" : ", without decay") +
                  (given.built[i] == unknown ? "" : ", built as variable " + std::to_string(given.built[i])) +
                  (states_.size() == 1 ? "" : ", of optimizer " + std::to_string(places_[i].optimizer)));
    }
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        const Tensor& tensor = variables_[i].tensor;
        const std::uint64_t sum = checksum(tensor.data(), static_cast<std::size_t>(tensor.size_bytes()));
        facts.add("checksum of the values", static_cast<std::int64_t>(sum), i);
    }
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
    const auto before = std::tuple(ranks->variables_, ranks->places_, ranks->borders_, ranks->ranges_);
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
        std::tie(ranks->variables_, ranks->places_, ranks->borders_, ranks->ranges_) = before;
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
