// The settings of a group of a hosted step, as a dict that the host may change at any time.
#pragma once

#include <fusedopt/hosted.hpp>

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "rules/rule.hpp"

namespace fusedopt::python {

namespace py = pybind11;

/// A rule by its name. ValueError if there is none.
const AnyDefinition& definition_named(const std::string& rule);

/// What a dict of settings of groups of one rule may hold.
class Settings {
public:
    explicit Settings(const AnyDefinition& definition);

    const AnyDefinition& definition() const { return definition_; }

    /// Makes a group one of this rule. The result says where its settings lie; it holds as long as the group stays
    /// where it is.
    std::vector<AnyField> places_in(HostedGroup& group) const;

    /// Gives a group these settings, and the defaults for all others. TypeError for one that there is not.
    void read(const py::dict& values, HostedGroup& group, const std::vector<AnyField>& places) const;

private:
    const AnyField* find(PyObject* key, const std::vector<AnyField>& places) const;

    const AnyDefinition& definition_;
    HostedGroup defaults_;
    std::vector<py::str> names_;  // in the order of the places
};

}  // namespace fusedopt::python
