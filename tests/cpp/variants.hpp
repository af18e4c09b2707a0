// The variants of rules: the table tests/cases.txt, which Python's tests read as well, and hyperparameters by name.
#pragma once

#include <cstddef>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <fusedopt/fusedopt.hpp>

/// A line of the table of variants: a rule, and the values of some hyperparameters.
struct Variant {
    std::string rule;
    std::vector<std::pair<std::string, std::string>> values;
};

inline std::vector<Variant> table_of_variants() {
    std::ifstream file(FUSEDOPT_CASES);
    if (!file) throw std::runtime_error("cannot read " FUSEDOPT_CASES);
    std::vector<Variant> table;
    for (std::string line; std::getline(file, line);) {
        std::istringstream words(line);
        Variant variant;
        if (!(words >> variant.rule) || variant.rule == "#") continue;
        for (std::string word; words >> word;) {
            const std::size_t equals = word.find('=');
            variant.values.emplace_back(word.substr(0, equals), word.substr(equals + 1));
        }
        table.push_back(std::move(variant));
    }
    return table;
}

template <class Member>
void assign(Member& member, const std::string& json) {
    if constexpr (std::is_same_v<Member, bool>) {
        member = json == "true";
    } else if constexpr (!std::is_constructible_v<Member, double>) {
        throw std::runtime_error("expected the name of a number, found that of " + json);
    } else if (json != "null") {
        member = static_cast<Member>(std::stod(json));
    } else if constexpr (std::is_default_constructible_v<Member>) {
        member = Member{};  // none, or no weight decay
    }
}

/// Sets a hyperparameter by its name, and tells whether the rule has it.
template <class AnyRule>
bool assign(AnyRule& rule, const std::string& name, const std::string& json) {
    bool is_known = false;
    const auto try_field = [&](const auto& field) {
        if (name != field.name) return;
        assign(rule.*field.member, json);
        is_known = true;
    };
    std::apply([&](const auto&... field) { (try_field(field), ...); }, AnyRule::fields());
    return is_known;
}
