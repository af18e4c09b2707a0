// A rule that the program brings along: what it says about itself, checked and put as the step asks for it.
#include <fusedopt/own_rule.hpp>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <string_view>

#include "rules/definition.hpp"

namespace fusedopt {

static_assert(OwnRule::most_slots == kernel::max_slots && OwnRule::most_scalars == kernel::most_scalars);
static_assert(std::is_same_v<OwnRule::Update<float>, kernel::OwnUpdate<float>>);

static RuleSpec specify(const OwnRule& rule) {
    RuleSpec spec{kernel::RuleId::Own, rule.learning_rate(), {}, {}};
    for (const OwnRule::Slot& slot : rule.slots()) {
        const auto same = [&](const Slot& other) { return std::string_view(other.name) == slot.name; };
        if (std::ranges::any_of(spec.slots, same)) {
            throw std::invalid_argument(std::string(rule.name()) +
                                        ": expected a name of its own for each slot, found '" + slot.name + "' twice");
        }
        spec.slots.push_back({slot.name, 0, slot.initial, slot.copies_variable, Form::full, slot.is_signed});
    }
    if (!rule.allows_float8()) {
        spec.no_float8 = "a rule of one's own has slots of 8 bits only if it says that it allows them";
    }
    spec.only_lazy = "what a gradient of zero does to a row is not known of a rule of one's own";
    return spec;
}

static kernel::Scalars scalars_of(const OwnRule& rule, const Now& now, std::size_t) {
    const OwnRule::Scalars scalars = rule.scalars({now.learning_rate, now.t});
    kernel::Scalars packed;
    std::ranges::copy(scalars, packed.values);
    return packed;
}

static kernel::OwnFormula own_formula(const OwnRule& rule) {
    return {rule.update_float(), rule.update_double(), static_cast<int>(rule.slots().size())};
}

template struct Definition<OwnRule>;

}  // namespace fusedopt
