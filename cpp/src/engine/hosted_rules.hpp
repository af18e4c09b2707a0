// The rule of each group of a hosted step. It is checked and described again only if a hyperparameter has changed.
#pragma once

#include <optional>
#include <string>

#include "rules/rule.hpp"

namespace fusedopt {

class HostedRule {
public:
    /// What the step must know of this rule. Refuses a rule that is more than a formula, hyperparameters out of their
    /// range, and functions.
    const RuleSpec& spec_of(const Rule& rule, std::size_t group);

private:
    std::optional<Rule> rule_;  // the last one
    RuleSpec spec_;
};

/// "group 0", as messages begin.
std::string group_name(std::size_t group);

/// "group 0, parameter 3".
std::string parameter_name(std::size_t group, std::size_t index);

}  // namespace fusedopt
