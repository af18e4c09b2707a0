// Settings of groups by their names: the rule's hyperparameters, and what every group has.
#include "hosted_settings.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string_view>

#include "interned.hpp"
#include "rules.hpp"

namespace fusedopt::python {

const AnyDefinition& definition_named(const std::string& rule) {
    std::string known;
    for (const AnyDefinition& definition : definitions()) {
        if (rule == definition.name) return definition;
        known += (known.empty() ? "" : ", ") + std::string(definition.name);
    }
    throw std::invalid_argument("rule: expected a rule (" + known + "), found '" + rule + "'");
}

Settings::Settings(const AnyDefinition& definition) : definition_(definition) {
    for (const AnyField& place : places_in(defaults_)) names_.push_back(interned(place.name));
}

std::vector<AnyField> Settings::places_in(HostedGroup& group) const {
    group.rule = definition_.make();
    std::vector<AnyField> places = definition_.fields(group.rule);
    const auto is_decay = [](const AnyField& field) { return std::string_view(field.name) == "weight_decay"; };
    if (std::ranges::none_of(places, is_decay)) places.push_back({"weight_decay", domains::any, &group.weight_decay});
    places.push_back({"learning_rate", domains::any, &group.learning_rate});
    places.push_back({"maximize", domains::any, &group.maximize});
    places.push_back({"ema_momentum", domains::any, &group.ema_momentum});
    return places;
}

const AnyField* Settings::find(PyObject* key, const std::vector<AnyField>& places) const {
    const auto is_key = [&](const py::str& name) { return key == name.ptr(); };
    auto found = std::ranges::find_if(names_, is_key);
    if (found == names_.end() && PyUnicode_Check(key)) {  // the same text in another object
        found =
            std::ranges::find_if(names_, [&](const py::str& name) { return PyUnicode_Compare(key, name.ptr()) == 0; });
    }
    return found == names_.end() ? nullptr : &places[static_cast<std::size_t>(found - names_.begin())];
}

void Settings::read(const py::dict& values, HostedGroup& group, const std::vector<AnyField>& places) const {
    group.rule = defaults_.rule;  // of the same kind, so that its hyperparameters stay where they are
    group.weight_decay = defaults_.weight_decay;
    group.maximize = defaults_.maximize;
    group.ema_momentum = defaults_.ema_momentum;
    group.learning_rate = std::numeric_limits<double>::quiet_NaN();
    Py_ssize_t cursor = 0;
    PyObject *key, *given;
    while (PyDict_Next(values.ptr(), &cursor, &key, &given)) {
        const auto value = py::reinterpret_borrow<py::object>(given);
        const AnyField* const place = find(key, places);
        if (!place) {
            std::string known;
            for (const AnyField& one : places) known += (known.empty() ? "" : ", ") + std::string(one.name);
            throw py::type_error("settings: expected those of " + std::string(definition_.name) + " (" + known +
                                 "), found " + py::repr(key).cast<std::string>());
        }
        set_field(*place, value);
    }
    if (std::isnan(group.learning_rate) && !values.contains("learning_rate")) {
        throw py::type_error("learning_rate: expected a number, found none");
    }
}

}  // namespace fusedopt::python
