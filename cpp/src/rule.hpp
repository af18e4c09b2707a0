// What the step must know about a rule besides its formula: its kernel, its slots, its scalars. One file each in
// rules/.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include <fusedopt/rules.hpp>
#include <fusedopt/tensor.hpp>

#include "check.hpp"
#include "kernel/kernel.hpp"

namespace fusedopt {

/// What a slot looks like beside its variable, and whether `variables` lists it.
enum class Form : std::uint8_t {
    whole,        // an array of the variable's shape
    rows,         // without the last dimension
    columns,      // without the last but one
    derived,      // of the variable's shape, but made only when it is listed; a step neither reads nor writes it
    placeholder,  // nothing, where Keras lists an integer 0
    hidden,       // an array of the variable's shape that is of no use after the step, and is not listed
};

/// A state array each variable has. Slots of one group stand interleaved in `variables`: all of a variable's, then the
/// next variable's; a later group follows after the last variable.
struct Slot {
    const char* name;
    int group;
    double initial = 0.0;
    bool copies_variable = false;  // starts as a copy of the variable instead
    Form form = Form::whole;

    friend bool operator==(const Slot& a, const Slot& b) {
        return std::string_view(a.name) == b.name && a.group == b.group && a.initial == b.initial &&
               a.copies_variable == b.copies_variable && a.form == b.form;
    }
};

struct RuleSpec {
    std::optional<kernel::RuleId> kernel;  // none: the rule's procedure does all
    double learning_rate;                  // the default
    std::optional<double> weight_decay;    // the rule's own
    std::vector<Slot> slots;
    bool has_product = false;   // Nadam's running product of momentum factors
    bool interpolates = false;  // w = (1 - beta_1) z + beta_1 x, with z in slot 0 and x to be evaluated at
};

/// When a step's scalars are computed: `step` is the stored counter, `t` the number of the update, from 1.
struct Moment {
    double learning_rate;
    std::int64_t step;
    std::int64_t t;
    double beta_1;  // where the rule has betas
    double beta_2;
    double* product;
};

// specify describes a rule whose hyperparameters are in their ranges. compute_scalars fills in the kernel's scalars, in
// double.
#define FUSEDOPT_DECLARE_RULE(Name) \
    RuleSpec specify(const Name&);  \
    void compute_scalars(const Name&, const Moment&, double* scalars);

FUSEDOPT_DECLARE_RULE(SGD)
FUSEDOPT_DECLARE_RULE(RMSprop)
FUSEDOPT_DECLARE_RULE(Adam)
FUSEDOPT_DECLARE_RULE(AdamW)
FUSEDOPT_DECLARE_RULE(Adagrad)
FUSEDOPT_DECLARE_RULE(Adadelta)
FUSEDOPT_DECLARE_RULE(Adamax)
FUSEDOPT_DECLARE_RULE(Nadam)
FUSEDOPT_DECLARE_RULE(Lion)
FUSEDOPT_DECLARE_RULE(Ftrl)
FUSEDOPT_DECLARE_RULE(Lamb)
FUSEDOPT_DECLARE_RULE(ScheduleFreeAdamW)

#undef FUSEDOPT_DECLARE_RULE

// A rule that does one thing to some variables and another to the rest has a spec and scalars for each such branch.
template <class AnyRule>
std::vector<RuleSpec> specify_branches(const AnyRule& rule) {
    return {specify(rule)};
}
template <class AnyRule>
std::size_t branch_of(const AnyRule&, const Tensor&, const std::string&) {
    return 0;
}
template <class AnyRule>
void compute_scalars(const AnyRule& rule, const Moment& moment, std::size_t, double* scalars) {
    compute_scalars(rule, moment, scalars);
}

#define FUSEDOPT_DECLARE_BRANCHED_RULE(Name)                                             \
    std::vector<RuleSpec> specify_branches(const Name&);                                 \
    std::size_t branch_of(const Name&, const Tensor& variable, const std::string& name); \
    void compute_scalars(const Name&, const Moment&, std::size_t branch, double* scalars);

FUSEDOPT_DECLARE_BRANCHED_RULE(Adafactor)
FUSEDOPT_DECLARE_BRANCHED_RULE(Muon)

#undef FUSEDOPT_DECLARE_BRANCHED_RULE

/// The branches of any rule, if its hyperparameters are in their ranges; otherwise it throws.
inline std::vector<RuleSpec> specify_branches(const Rule& rule) {
    const auto checked = [](const auto& r) {
        require_fields(r);
        return specify_branches(r);
    };
    return std::visit(checked, rule);
}

/// Nadam's product after so many updates, for state that was stored without it.
double product_after(const Nadam& rule, std::int64_t step, std::int64_t updates);

/// Betas that are functions are checked when they are called.
inline void require_betas(const Moment& moment) {
    require_below_one("beta_1", moment.beta_1);
    require_below_one("beta_2", moment.beta_2);
}

}  // namespace fusedopt
