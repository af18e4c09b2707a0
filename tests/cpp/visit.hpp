// What tests ask of a rule by its type. They know the library's own rules; one that a program brings along has
// tests of its own.
#pragma once

#include <stdexcept>
#include <type_traits>
#include <variant>

#include <fusedopt/fusedopt.hpp>

template <class Visit, class AnyRule>
auto visit_rule(const Visit& visit, AnyRule& rule) {
    using Result = decltype(visit(std::get<fusedopt::SGD>(rule)));
    return std::visit(
        [&](auto& kind) -> Result {
            if constexpr (std::is_same_v<std::remove_cvref_t<decltype(kind)>, fusedopt::OwnRule>) {
                throw std::logic_error("expected a rule of the library");
            } else {
                return visit(kind);
            }
        },
        rule);
}
