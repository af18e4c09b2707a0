// Rules of a hosted step: which are taken, and when one must be looked at again.
#include "engine/hosted_rules.hpp"

#include <functional>
#include <stdexcept>
#include <utility>
#include <variant>

#include "engine/check.hpp"

namespace fusedopt {
namespace {

template <class Value>
bool is_same(const Value& a, const Value& b) {
    return a == b;
}
bool is_same(const Hyperparameter& a, const Hyperparameter& b) {
    return a.is_number() && b.is_number() && a.value() == b.value();
}
template <class Signature>
bool is_same(const std::function<Signature>&, const std::function<Signature>&) {
    return false;
}

bool is_same(const Rule& a, const Rule& b) {
    const auto same_fields = [&]<class Kind>(const Kind& of_a) {
        if constexpr (requires { Kind::fields(); }) {
            const Kind* of_b = std::get_if<Kind>(&b);
            const auto all = [&](const auto&... field) {
                return (is_same(of_a.*field.member, of_b->*field.member) && ...);
            };
            return of_b && std::apply(all, Kind::fields());
        } else {
            const Kind* of_b = std::get_if<Kind>(&b);
            return of_b && of_a == *of_b;
        }
    };
    return std::visit(same_fields, a);
}

void require_number(const char* name, const Hyperparameter* value) {
    if (!value || value->is_number()) return;
    throw std::invalid_argument(std::string(name) +
                                ": expected a number, found a function; a hosted step takes the number of each step");
}

RuleSpec describe(Rule rule) {
    const AnyDefinition& definition = definition_of(rule);
    const std::vector<RuleSpec> branches = definition.branches(rule);
    if (branches.size() != 1 || !branches[0].kernel) {
        throw std::invalid_argument(
            std::string("rule: expected one that is a formula for each element, found ") + name_of(rule) +
            (branches[0].kernel && branches.back().is_rowwise ? " with one second moment for each row"
                                                              : ", which keeps state of its own") +
            "; make a fusedopt optimizer with it");
    }
    for (const AnyField& field : definition.fields(rule)) {
        field.visit([&](const auto& value) { require_field(field.name, value, field.domain); });
    }
    const Betas betas = definition.betas(rule);
    require_number("beta_1", betas.beta_1);
    require_number("beta_2", betas.beta_2);
    return branches[0];
}

}  // namespace

std::string group_name(std::size_t group) {
    return "group " + std::to_string(group);
}

std::string parameter_name(std::size_t group, std::size_t index) {
    return group_name(group) + ", parameter " + std::to_string(index);
}

const RuleSpec& HostedRule::spec_of(const Rule& rule, std::size_t group) {
    if (rule_ && is_same(*rule_, rule)) return spec_;
    rule_.reset();
    try {
        spec_ = describe(rule);
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(group_name(group) + ": " + error.what());
    }
    rule_ = rule;
    return spec_;
}

}  // namespace fusedopt
