// Hyperparameters, first ones and changed ones: what is refused, and how slots that were built serve a rule's new form.
#include <algorithm>
#include <array>
#include <stdexcept>
#include <utility>

#include "engine/check.hpp"
#include "engine/ranks.hpp"
#include "engine/state.hpp"

namespace fusedopt {
namespace {

/// Checks every hyperparameter.
void require_fields(const std::vector<AnyField>& fields) {
    for (const AnyField& field : fields) {
        field.visit([&](const auto& value) { require_field(field.name, value, field.domain); });
    }
}

/// A rule's branches, if its hyperparameters are in their ranges; otherwise it throws.
std::vector<RuleSpec> branches_of(Rule& rule) {
    const AnyDefinition& definition = definition_of(rule);
    require_fields(definition.fields(rule));
    return definition.branches(rule);
}

void check_options(Options& options) {
    require_fields(fields_of(options));
    if (options.clipnorm.has_value() + options.clipvalue.has_value() + options.global_clipnorm.has_value() > 1) {
        throw std::invalid_argument(
            "clipnorm, clipvalue, global_clipnorm: expected at most one of them, found several");
    }
}

void require_one_decay(const Options& options, std::span<const RuleSpec> branches) {
    if (options.weight_decay && branches[0].weight_decay) {
        throw std::invalid_argument("weight_decay: expected in the rule or in the options, found in both");
    }
}

/// Weight decay inside a formula reaches every variable.
void require_decoupled(Rule& rule, std::span<const RuleSpec> branches) {
    for (const AnyField& field : definition_of(rule).fields(rule)) {
        const auto* decay = std::get_if<double*>(&field.place);
        if (!decay || **decay == 0.0 || branches[0].weight_decay || std::string_view(field.name) != "weight_decay") {
            continue;
        }
        throw std::invalid_argument(
            std::string("exclude_from_weight_decay: expected decoupled weight decay, found that of ") + name_of(rule) +
            ", which the gradient takes in; give variables without it an optimizer of their own");
    }
}

[[noreturn]] void refuse_built(const char* name) {
    throw BuiltError(std::string(name) +
                     ": expected no change after build, found one that needs other state; make a "
                     "new optimizer");
}

}  // namespace

std::string_view to_string(RowUpdates row_updates) {
    return row_updates == RowUpdates::lazy ? "lazy" : "caught_up";
}

std::string_view to_string(SlotDType slot_dtype) {
    switch (slot_dtype) {
        case SlotDType::float32:
            return "float32";
        case SlotDType::bfloat16:
            return "bfloat16";
        case SlotDType::float8:
            return "float8";
    }
    return "unknown";
}

void Takeovers::add(const std::shared_ptr<const Takeover>& takeover) {
    std::erase_if(takeovers_, [](const auto& other) { return other.expired(); });
    takeovers_.push_back(takeover);
}

void Takeovers::require_loss_scale_factor(double present, std::optional<double> wanted) const {
    if (wanted.value_or(1.0) == present) return;
    for (const auto& weak : takeovers_) {
        const auto takeover = weak.lock();
        if (!takeover) continue;
        refuse("loss_scale_factor",
               std::string("no change of it inside a ") + takeover->owner + ", whose " + takeover->scale +
                   " scales the loss",
               wanted.value_or(1.0));
    }
}

void Takeovers::require_no_clip(const Options& options) const {
    for (const auto& weak : takeovers_) {
        const auto takeover = weak.lock();
        if (takeover && takeover->clips_norm) fusedopt::require_no_clip(options, "one of them");
    }
}

void require_no_clip(const Options& options, const std::string& where) {
    const auto check = [&](const char* name, const std::optional<double>& value) {
        if (!value) return;
        throw std::invalid_argument("global_clipnorm: expected optimizers that do not clip by themselves, found " +
                                    std::string(name) + " on " + where + "; leave out one of the two");
    };
    check("clipnorm", options.clipnorm);
    check("clipvalue", options.clipvalue);
    check("global_clipnorm", options.global_clipnorm);
}

// Muon has a branch that can, so it is not refused, though its matrices take no rows.
void Optimizer::State::require_row_updates(const Options& wanted, std::span<const RuleSpec> of_branches) const {
    if (wanted.row_updates == RowUpdates::lazy) return;
    const auto refuse = [](const std::string& reason) {
        throw std::invalid_argument("row_updates: expected \"lazy\", as " + reason + ", found \"caught_up\"");
    };
    if (wanted.use_ema) refuse("with use_ema the averages follow every row in every step");
    if (std::ranges::all_of(of_branches, [](const RuleSpec& branch) { return branch.only_lazy; })) {
        refuse(of_branches[0].only_lazy);
    }
}

void Optimizer::State::require_slot_dtypes(const Options& wanted, std::span<const RuleSpec> of_branches) const {
    const std::string of_codes = option_asking_for(wanted, SlotDType::bfloat16);
    if (!of_codes.empty() && wanted.row_updates == RowUpdates::caught_up) {
        throw std::invalid_argument(of_codes +
                                    ": expected \"float32\" with row_updates=\"caught_up\", as what a row has missed "
                                    "is a product of factors on "
                                    "exact slots, found slots in fewer bits; use row_updates=\"lazy\"");
    }
    const auto refused = std::ranges::find_if(of_branches, [](const RuleSpec& branch) { return branch.no_float8; });
    const std::string of_float8 = option_asking_for(wanted, SlotDType::float8);
    if (refused == of_branches.end() || of_float8.empty()) return;
    throw std::invalid_argument(of_float8 + ": expected \"float32\" or \"bfloat16\", as " +
                                std::string(refused->no_float8) + ", found \"float8\"");
}

Optimizer::State::State(Rule rule_, Options options_)
    : rule(std::move(rule_)),
      branches(branches_of(rule)),
      options(std::move(options_)),
      loss_scale_factor(options.loss_scale_factor.value_or(1.0)),
      accumulation_steps(options.gradient_accumulation_steps.value_or(1)),
      learning_rate(options.learning_rate.value_or(branches[0].learning_rate)) {
    check_options(options);
    require_one_decay(options, branches);
    require_row_updates(options, branches);
    require_slot_dtypes(options, branches);
    options.learning_rate.reset();
    for (const StateNumber& number : branches[0].numbers) numbers.push_back(number.initial);
    next_numbers = numbers;
    if (learning_rate.is_number()) learning_rate_value = learning_rate.value();
}

/// The rule's branches, with the slots that were built: first those that it uses now, as its kernel takes them, then
/// the rest. None if it needs others.
std::optional<std::vector<RuleSpec>> Optimizer::State::on_built_slots(const Rule& new_rule) const {
    const AnyDefinition& definition = definition_of(new_rule);
    std::vector<RuleSpec> specs = definition.branches(new_rule);
    if (specs.size() != branches.size()) return std::nullopt;
    for (std::size_t k = 0; k < specs.size(); ++k) {
        std::vector<Slot> unused = branches[k].slots;
        for (const Slot& slot : specs[k].slots) {
            const auto found = std::ranges::find(unused, slot);
            if (found == unused.end()) return std::nullopt;
            unused.erase(found);
        }
        specs[k].slots.insert(specs[k].slots.end(), unused.begin(), unused.end());
    }
    for (const Variable& variable : variables) {
        if (definition.branch(new_rule, variable.tensor, variable.name) != variable.branch) return std::nullopt;
    }
    return specs;
}

std::vector<RuleSpec> Optimizer::State::respecify(Rule& new_rule) const {
    std::vector<RuleSpec> wanted = branches_of(new_rule);
    if (!is_built) return wanted;
    if (std::optional<std::vector<RuleSpec>> specs = on_built_slots(new_rule)) return *std::move(specs);
    // The first hyperparameter that cannot be changed even alone.
    const AnyDefinition& definition = definition_of(rule);
    const std::vector<AnyField> new_fields = definition.fields(new_rule);
    const auto is_possible = [&](const Rule& changed) {
        try {
            return on_built_slots(changed).has_value();
        } catch (const std::invalid_argument&) {
            return false;  // with the others as they are
        }
    };
    for (std::size_t k = 0; k < new_fields.size(); ++k) {
        Rule changed = rule;
        definition.fields(changed)[k].visit(new_fields[k], [](auto& value, const auto& other) { value = other; });
        if (!is_possible(changed)) refuse_built(new_fields[k].name);
    }
    refuse_built("set_rule");
}

void Optimizer::State::set_rule(Rule& new_rule) {
    require_not_stepping("set_rule");
    if (!is_same_kind(new_rule, rule)) {
        throw std::invalid_argument("set_rule: expected hyperparameters of " + name_of(rule) + ", found those of " +
                                    name_of(new_rule) + "; make a new optimizer");
    }
    std::vector<RuleSpec> new_branches = respecify(new_rule);
    require_one_decay(options, new_branches);
    require_slot_dtypes(options, new_branches);
    if (excludes_some()) require_decoupled(new_rule, new_branches);
    const std::vector<AnyField> fields = definition_of(rule).fields(rule);
    const std::vector<AnyField> new_fields = definition_of(rule).fields(new_rule);
    // Histories know slots by their order, and what moves the variable.
    const auto is_same = [](const RuleSpec& a, const RuleSpec& b) { return a.slots == b.slots && a.mover == b.mover; };
    if (!std::ranges::equal(branches, new_branches, is_same)) {
        catch_up_all();
        for (std::size_t i = 0; i < histories.size(); ++i) histories[i].set_mover(new_branches[jobs[i].branch].mover);
    }
    for (kernel::Job& job : jobs) {
        const std::vector<Slot>& built = branches[job.branch].slots;
        std::array<void*, kernel::max_slots> arrays;
        std::ranges::copy(job.slots, arrays.begin());
        std::size_t k = 0;
        for (const Slot& slot : new_branches[job.branch].slots) {
            job.slots[k++] = arrays[static_cast<std::size_t>(std::ranges::find(built, slot) - built.begin())];
        }
    }
    std::swap(branches, new_branches);
    for (std::size_t k = 0; k < fields.size(); ++k) {  // in place: a procedure refers to the rule
        fields[k].visit(new_fields[k], [](auto& value, auto& other) { std::swap(value, other); });
    }
}

bool Optimizer::State::excludes_some() const {
    return !excluded.empty() || std::ranges::any_of(variables, [](const Variable& v) { return !v.decays; });
}

void Optimizer::State::exclude(std::span<const Tensor> tensors) {
    for (const Tensor& tensor : tensors) {
        if (const std::size_t index = ranks ? ranks->find(*this, tensor) : find(tensor); index != unknown) {
            throw std::invalid_argument("exclude_from_weight_decay: expected before build, found " + describe(index) +
                                        " built");
        }
    }
    if (!tensors.empty()) require_decoupled(rule, branches);
    excluded.assign(tensors.begin(), tensors.end());
}

void Optimizer::State::set_options(Options& new_options) {
    require_not_stepping("set_options");
    check_options(new_options);
    require_one_decay(new_options, branches);
    require_row_updates(new_options, branches);
    require_slot_dtypes(new_options, branches);
    takeovers.require_loss_scale_factor(loss_scale_factor, new_options.loss_scale_factor);
    takeovers.require_no_clip(new_options);
    if (is_built && new_options.use_ema != options.use_ema) refuse_built("use_ema");
    if (is_built && new_options.gradient_accumulation_steps != options.gradient_accumulation_steps) {
        refuse_built("gradient_accumulation_steps");
    }
    if (is_built && new_options.row_updates != options.row_updates) refuse_built("row_updates");
    if (is_built && new_options.slot_dtype != options.slot_dtype) refuse_built("slot_dtype");
    if (is_built && new_options.slot_dtypes != options.slot_dtypes) refuse_built("slot_dtypes");
    if (is_built && new_options.master != options.master) refuse_built("master");
    if (new_options.learning_rate) set_learning_rate(*new_options.learning_rate);
    std::swap(options, new_options);
    set_loss_scale_factor(options.loss_scale_factor);
    accumulation_steps = options.gradient_accumulation_steps.value_or(1);
    std::swap(options.learning_rate, new_options.learning_rate);
    for (kernel::Job& job : jobs) job.clip_factor = 1.0;  // a step only sets it under clipnorm
}

void Optimizer::State::set_learning_rate(Hyperparameter& rate) {
    require_not_stepping("set_learning_rate");
    require_field("learning_rate", rate, domains::not_negative);
    if (rate.is_number()) learning_rate_value = rate.value();
    std::swap(learning_rate, rate);
}

void Optimizer::State::set_loss_scale_factor(std::optional<double> factor) {
    options.loss_scale_factor = factor;
    loss_scale_factor = factor.value_or(1.0);
}

}  // namespace fusedopt
