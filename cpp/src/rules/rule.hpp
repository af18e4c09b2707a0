// What the step must know about a rule besides its formula: its kernel, its slots and its scalars. Each rule has a file
// in rules/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <fusedopt/rules.hpp>
#include <fusedopt/tensor.hpp>

#include "engine/check.hpp"
#include "engine/missed.hpp"
#include "kernel/kernel.hpp"
#include "rules/any_field.hpp"

namespace fusedopt {

class Procedure;
struct Variable;

/// How a slot's shape follows from its variable's, and whether `variables` lists it.
enum class Form : std::uint8_t {
    full,         // an array of the variable's shape
    rows,         // without the last dimension
    columns,      // without the last but one
    rowwise,      // the first dimension alone: one number a row
    derived,      // of the variable's shape, but made only when it is listed; a step neither reads nor writes it
    placeholder,  // nothing; Keras lists an integer 0
    hidden,       // an array of the variable's shape that is of no use after the step, and is not listed
};

/// A state array that each variable has. `variables` lists all slots of a group for one variable, then for the next
/// one. A later group follows after the last variable.
struct Slot {
    const char* name;
    int group;
    double initial = 0.0;
    bool copies_variable = false;  // starts as a copy of the variable instead
    Form form = Form::full;
    bool is_signed = true;  // false: none of its numbers is below zero

    friend bool operator==(const Slot& a, const Slot& b) {
        return std::string_view(a.name) == b.name && a.group == b.group && a.initial == b.initial &&
               a.copies_variable == b.copies_variable && a.form == b.form && a.is_signed == b.is_signed;
    }
};

inline Slot not_negative(const char* name, int group, double initial = 0.0) {
    return {.name = name, .group = group, .initial = initial, .is_signed = false};
}

/// A number that the whole optimizer keeps.
struct StateNumber {
    const char* name;
    double initial;
};

/// What a step on a variable costs, in elements of a sweep.
using Cost = double (*)(const Tensor& variable);

inline double elements_of(const Tensor& variable) {
    return static_cast<double>(variable.size());
}

struct RuleSpec {
    std::optional<kernel::RuleId> kernel;  // none: the rule's procedure does all
    double learning_rate;                  // the default
    std::optional<double> weight_decay;    // the rule's own
    std::vector<Slot> slots;
    std::vector<StateNumber> numbers = {};
    const char* no_rows = nullptr;    // why it takes no gradient of rows; null: it does
    const char* no_float8 = nullptr;  // why its slots cannot be coded in 8 bits; null: they can
    const char* only_lazy = nullptr;  // why rows that a step leaves out cannot follow later; null: they can
    Mover mover = {};                 // if they can
    bool interpolates = false;        // w = (1 - beta_1) z + beta_1 x, with z in slot 0 and x to be evaluated at
    bool is_rowwise = false;          // branch 0 by rows: a job of the kernel is one whole row
    Cost cost = nullptr;              // if only one rank can update a variable; null: ranks share its elements
};

/// When a step's scalars are computed: `t` is the number of the update, from 1.
struct Now {
    double learning_rate;
    std::int64_t t;
    double beta_1;  // if the rule has betas
    double beta_2;
    std::span<double> numbers;             // those of the spec; scalars_of moves them on
    DType numbers_dtype = DType::float64;  // in which they are kept, if a host keeps them
};

/// What there is to know about rules of one kind. A rule's file in rules/ defines it, by functions that
/// rules/definition.hpp lists.
template <class AnyRule>
struct Definition {
    /// Checks the hyperparameters. A rule that does one thing to some variables and another to the rest has a spec for
    /// each such branch, and scalars.
    static std::vector<RuleSpec> branches(const AnyRule&);

    static std::size_t branch(const AnyRule&, const Tensor& variable, const std::string& name);

    static kernel::Scalars scalars(const AnyRule&, const Now&, std::size_t branch);

    /// What holds for the slots after this update in exact arithmetic, and is to hold for their codes of 8 bits.
    static kernel::Guard guard(const AnyRule&, const Now&, std::size_t branch);

    /// What a step with these scalars does to slots, and through them to the variable, if the gradient is zero. Weight
    /// decay is not the rule's to know.
    static kernel::Missed missed(const AnyRule&, const kernel::Scalars&, std::size_t branch);

    /// Sets the numbers to what they are after so many updates, for state that was stored without them.
    static void restore(const AnyRule&, std::int64_t calls, std::int64_t updates, std::span<double> numbers);

    static std::unique_ptr<Procedure> procedure(const AnyRule&, std::span<const Variable>,
                                                std::span<const kernel::Job>);

    /// The program's functions, if the rule is one that it brings along.
    static kernel::OwnFormula own(const AnyRule&);
};

/// The betas of a rule, null if it has none.
struct Betas {
    const Hyperparameter* beta_1 = nullptr;
    const Hyperparameter* beta_2 = nullptr;
};

/// The same for a rule of any kind: what the step asks. Each function is to be called with a rule of its kind.
struct AnyDefinition {
    const char* name;  // null for a rule that the program brings along, as each has its own
    Rule (*make)();    // with the defaults
    std::vector<AnyField> (*fields)(Rule&);
    Betas (*betas)(const Rule&);
    std::vector<RuleSpec> (*branches)(const Rule&);
    std::size_t (*branch)(const Rule&, const Tensor& variable, const std::string& name);
    kernel::Scalars (*scalars)(const Rule&, const Now&, std::size_t branch);
    kernel::Guard (*guard)(const Rule&, const Now&, std::size_t branch);
    kernel::Missed (*missed)(const Rule&, const kernel::Scalars&, std::size_t branch);
    void (*restore)(const Rule&, std::int64_t calls, std::int64_t updates, std::span<double> numbers);
    std::unique_ptr<Procedure> (*procedure)(const Rule&, std::span<const Variable>, std::span<const kernel::Job>);
    kernel::OwnFormula (*own)(const Rule&);
};

/// Of every kind in this library, in the order of `Rule`.
std::span<const AnyDefinition> definitions();

const AnyDefinition& definition_of(const Rule& rule);

std::string name_of(const Rule& rule);

/// Whether two rules differ in nothing but values of hyperparameters.
bool is_same_kind(const Rule& a, const Rule& b);

/// Betas that are functions are checked when they are called.
inline void require_betas(const Now& now) {
    require_below_one("beta_1", now.beta_1);
    require_below_one("beta_2", now.beta_2);
}

}  // namespace fusedopt
