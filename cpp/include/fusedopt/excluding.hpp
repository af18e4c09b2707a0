// Muon's exclusions by regular expressions. A template, so that only a program that has such expressions compiles them.
#pragma once

#include <fusedopt/language.hpp>

#include <algorithm>
#include <regex>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <fusedopt/rules.hpp>

namespace fusedopt {

template <class Char>
Muon::Exclusion Muon::excluding(const std::vector<std::string>& exclude_layers, bool exclude_embeddings) {
    std::vector<std::basic_regex<Char>> patterns;
    for (const std::string& layer : exclude_layers) {
        try {
            patterns.emplace_back(layer);
        } catch (const std::regex_error& error) {
            throw std::invalid_argument("exclude_layers: expected a regular expression, found '" + layer + "' (" +
                                        error.what() + ")");
        }
    }
    return [patterns = std::move(patterns), exclude_embeddings](const std::string& name) {
        return (exclude_embeddings && excludes_embeddings(name)) ||
               std::ranges::any_of(patterns, [&](const auto& p) { return std::regex_search(name, p); });
    };
}

}  // namespace fusedopt
