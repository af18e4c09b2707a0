// How a rule's file makes its Definition. It has some of these functions, static, so that one which is misspelt is
// unused and an error, and ends with `template struct Definition<Rule>;`:
//   specify(rule), scalars_of(rule, now)
//   specify_rowwise(rule): if the rule can be rowwise
//   specify_branches(rule), branch_of(rule, variable, name), scalars_of(rule, now, branch): if there are branches
//   guard_of(rule, now), or guard_of(rule, now, branch): if a slot bounds another one
//   missed_of(rule, scalars), or missed_of(rule, scalars, branch) with packed ones: unless the spec says `only_lazy`
//   restore_numbers(rule, calls, updates, numbers), make_procedure(rule, variables, jobs): if there is anything to do
//   own_formula(rule): of OwnRule alone
#pragma once

#include <cstddef>
#include <cstring>
#include <initializer_list>
#include <utility>

#include "rules/procedure.hpp"
#include "rules/rule.hpp"

namespace fusedopt {

/// A rule's ...Scalars in the form that crosses the border. A kernel takes them back into the same struct.
template <template <class> class Named>
kernel::Scalars pack(const Named<double>& scalars) {
    static_assert(sizeof(scalars) <= sizeof(kernel::Scalars), "make kernel::most_scalars larger");
    kernel::Scalars packed{};
    std::memcpy(&packed, &scalars, sizeof(scalars));
    return packed;
}

/// The same for a Coupled formula, or for the formula itself, which does not read that far.
template <template <class> class Named>
kernel::Scalars pack_coupled(const Named<double>& scalars, double weight_decay) {
    static_assert(sizeof(scalars) < sizeof(kernel::Scalars), "make kernel::most_scalars larger");
    kernel::Scalars packed = pack(scalars);
    packed.values[sizeof(scalars) / sizeof(double)] = weight_decay;
    return packed;
}

/// Scalars back from there.
template <template <class> class Named>
Named<double> unpack(const kernel::Scalars& packed) {
    Named<double> scalars;
    std::memcpy(&scalars, &packed, sizeof(scalars));
    return scalars;
}

/// The same rule for variables that have rows: these slots hold one number a row.
inline RuleSpec rowwise(RuleSpec spec, kernel::RuleId kernel, std::initializer_list<std::size_t> slots) {
    spec.kernel = kernel;
    spec.is_rowwise = true;
    spec.cost = elements_of;  // a row's mean goes over all of it
    for (const std::size_t k : slots) spec.slots[k].form = Form::rowwise;
    return spec;
}

/// Why Adadelta's slots cannot be coded in 8 bits, whoever's numbers it has.
inline constexpr const char* adadelta_feeds_back =
    "Adadelta's update is a ratio of two averages, of which one takes the update in again";

/// The same of centered RMSprop's.
inline constexpr const char* centered_subtracts =
    "the centered form subtracts two slots, and each code may be off by a sixteenth";

/// Whether the rule's file has missed_of.
template <class AnyRule>
concept says_what_is_missed = requires(const AnyRule& rule, const kernel::Scalars& scalars) {
    missed_of(rule, scalars, std::size_t{});
} || requires(const AnyRule& rule, const Now& now) { missed_of(rule, scalars_of(rule, now)); };

template <class AnyRule>
std::vector<RuleSpec> Definition<AnyRule>::branches(const AnyRule& rule) {
    std::vector<RuleSpec> specs;
    if constexpr (requires { specify_branches(rule); }) {
        specs = specify_branches(rule);
    } else {
        specs.push_back(specify(rule));
        if constexpr (requires { rule.rowwise; }) {
            if (rule.rowwise) specs.push_back(specify_rowwise(rule));
        }
    }
    for (RuleSpec& spec : specs) {
        if (spec.no_rows) spec.only_lazy = spec.no_rows;
        if (!says_what_is_missed<AnyRule> && !spec.only_lazy) {
            spec.only_lazy = "PyTorch, whose numbers these are, leaves rows without a gradient as they are";
        }
    }
    return specs;
}

template <class AnyRule>
std::size_t Definition<AnyRule>::branch(const AnyRule& rule, const Tensor& variable, const std::string& name) {
    if constexpr (requires { branch_of(rule, variable, name); }) {
        return branch_of(rule, variable, name);
    } else if constexpr (requires { rule.rowwise; }) {
        return rule.rowwise && variable.rank() > 1 ? 1 : 0;
    } else {
        return 0;
    }
}

template <class AnyRule>
kernel::Scalars Definition<AnyRule>::scalars(const AnyRule& rule, const Now& now, std::size_t branch) {
    if constexpr (requires { scalars_of(rule, now, branch); }) {
        return scalars_of(rule, now, branch);
    } else {
        return pack(scalars_of(rule, now));
    }
}

template <class AnyRule>
kernel::Guard Definition<AnyRule>::guard(const AnyRule& rule, const Now& now, std::size_t branch) {
    if constexpr (requires { guard_of(rule, now, branch); }) {
        return guard_of(rule, now, branch);
    } else if constexpr (requires { guard_of(rule, now); }) {
        return guard_of(rule, now);
    } else {
        return {};
    }
}

template <class AnyRule>
kernel::Missed Definition<AnyRule>::missed(const AnyRule& rule, const kernel::Scalars& scalars, std::size_t branch) {
    if constexpr (requires { missed_of(rule, scalars, branch); }) {
        return missed_of(rule, scalars, branch);
    } else if constexpr (says_what_is_missed<AnyRule>) {
        decltype(scalars_of(rule, std::declval<const Now&>())) own;
        std::memcpy(&own, &scalars, sizeof(own));
        return missed_of(rule, own);
    } else {
        return nothing_missed;
    }
}

template <class AnyRule>
void Definition<AnyRule>::restore(const AnyRule& rule, std::int64_t calls, std::int64_t updates,
                                  std::span<double> numbers) {
    if constexpr (requires { restore_numbers(rule, calls, updates, numbers); }) {
        restore_numbers(rule, calls, updates, numbers);
    }
}

template <class AnyRule>
kernel::OwnFormula Definition<AnyRule>::own(const AnyRule& rule) {
    if constexpr (requires { own_formula(rule); }) {
        return own_formula(rule);
    } else {
        return {};
    }
}

template <class AnyRule>
std::unique_ptr<Procedure> Definition<AnyRule>::procedure(const AnyRule& rule, std::span<const Variable> variables,
                                                          std::span<const kernel::Job> jobs) {
    if constexpr (requires { make_procedure(rule, variables, jobs); }) {
        return make_procedure(rule, variables, jobs);
    } else {
        return nullptr;
    }
}

// Muon's file asks Adam's; declared before Adam's file defines it, also when both are compiled in one piece.
extern template struct Definition<Adam>;

}  // namespace fusedopt
