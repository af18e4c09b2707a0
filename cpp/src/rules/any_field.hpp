// The hyperparameters of any rule, or the options, one by one: checks, changes and the binding go over them without
// knowing the struct.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <variant>
#include <vector>

#include <fusedopt/fields.hpp>
#include <fusedopt/optimizer.hpp>
#include <fusedopt/rules.hpp>
#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// A hyperparameter of one object: its name, its range, and where it lies.
struct AnyField {
    using Place = std::variant<bool*, double*, std::int64_t*, DType*, Hyperparameter*, std::optional<double>*,
                               std::optional<std::int64_t>*, std::optional<Hyperparameter>*, Muon::MatrixProduct*,
                               Muon::Exclusion*, RowUpdates*, SlotDType*, std::map<std::string, SlotDType>*>;

    const char* name;
    Domain domain;
    Place place;

    /// Calls visit(value).
    template <class Visit>
    void visit(const Visit& visit) const {
        std::visit([&](auto* value) { visit(*value); }, place);
    }

    /// Calls visit(value, its value) with the same field of another object of the same struct.
    template <class Visit>
    void visit(const AnyField& other, const Visit& visit) const {
        std::visit([&](auto* value) { visit(*value, **std::get_if<decltype(value)>(&other.place)); }, place);
    }
};

/// All of an object, in the order of its struct's `fields()`.
template <class Struct>
std::vector<AnyField> fields_of(Struct& object) {
    const auto list = [&](const auto&... field) {
        return std::vector<AnyField>{{field.name, field.domain, &(object.*field.member)}...};
    };
    return std::apply(list, Struct::fields());
}

inline std::vector<AnyField> fields_of(OwnRule& rule) {
    std::vector<AnyField> fields;
    for (const OwnRule::Number& number : rule.numbers()) {
        std::visit([&](auto* place) { fields.push_back({number.name, number.domain, place}); }, number.place);
    }
    return fields;
}

}  // namespace fusedopt
