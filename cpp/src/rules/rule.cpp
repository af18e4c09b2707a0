// The definitions of all rules in one table, by their place in `Rule`: here alone a rule of any kind becomes one of its
// own.
#include "rules/rule.hpp"

#include <array>
#include <variant>

#include "rules/procedure.hpp"

namespace fusedopt {
namespace {

template <class Kind>
constexpr const char* name_of_kind = Kind::name;
template <>
constexpr const char* name_of_kind<OwnRule> = nullptr;

template <class Kind>
constexpr auto make_of_kind = []() -> Rule { return Kind{}; };
template <>
constexpr Rule (*make_of_kind<OwnRule>)() = nullptr;

template <class Kind>
constexpr AnyDefinition definition_of_kind = {
    .name = name_of_kind<Kind>,
    .make = make_of_kind<Kind>,
    .fields = [](Rule& rule) { return fields_of(*std::get_if<Kind>(&rule)); },
    .betas = [](const Rule& rule) -> Betas {
        const Kind& kind = *std::get_if<Kind>(&rule);
        if constexpr (requires { kind.beta_1; }) {
            return {&kind.beta_1, &kind.beta_2};
        } else {
            return {};
        }
    },
    .branches = [](const Rule& rule) { return Definition<Kind>::branches(*std::get_if<Kind>(&rule)); },
    .branch =
        [](const Rule& rule, const Tensor& variable, const std::string& name) {
            return Definition<Kind>::branch(*std::get_if<Kind>(&rule), variable, name);
        },
    .scalars = [](const Rule& rule, const Now& now,
                  std::size_t branch) { return Definition<Kind>::scalars(*std::get_if<Kind>(&rule), now, branch); },
    .guard = [](const Rule& rule, const Now& now,
                std::size_t branch) { return Definition<Kind>::guard(*std::get_if<Kind>(&rule), now, branch); },
    .missed = [](const Rule& rule, const kernel::Scalars& scalars,
                 std::size_t branch) { return Definition<Kind>::missed(*std::get_if<Kind>(&rule), scalars, branch); },
    .restore =
        [](const Rule& rule, std::int64_t calls, std::int64_t updates, std::span<double> numbers) {
            Definition<Kind>::restore(*std::get_if<Kind>(&rule), calls, updates, numbers);
        },
    .procedure =
        [](const Rule& rule, std::span<const Variable> variables, std::span<const kernel::Job> jobs) {
            return Definition<Kind>::procedure(*std::get_if<Kind>(&rule), variables, jobs);
        },
    .own = [](const Rule& rule) { return Definition<Kind>::own(*std::get_if<Kind>(&rule)); },
};

template <class... Kinds>
constexpr std::array<AnyDefinition, sizeof...(Kinds)> table_of(const std::variant<Kinds...>*) {
    return {definition_of_kind<Kinds>...};
}

constexpr auto table = table_of(static_cast<const Rule*>(nullptr));

}  // namespace

std::span<const AnyDefinition> definitions() {
    static_assert(std::is_same_v<std::variant_alternative_t<table.size() - 1, Rule>, OwnRule>);
    return std::span(table).first(table.size() - 1);
}

const AnyDefinition& definition_of(const Rule& rule) {
    return table[rule.index()];
}

std::string name_of(const Rule& rule) {
    const auto* own = std::get_if<OwnRule>(&rule);
    return own ? own->name() : definition_of(rule).name;
}

bool is_same_kind(const Rule& a, const Rule& b) {
    if (a.index() != b.index()) return false;
    const auto *own_a = std::get_if<OwnRule>(&a), *own_b = std::get_if<OwnRule>(&b);
    return !own_a || own_a->is_same_kind(*own_b);
}

}  // namespace fusedopt
