#include "rules.hpp"

#include <algorithm>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "arrays.hpp"
#include "gil.hpp"
#include "register.hpp"
#include "rules/rule.hpp"

namespace fusedopt::python {
namespace {

std::string text(py::handle value) {
    return py::repr(value).cast<std::string>();
}

[[noreturn]] void refuse(const char* name, const char* expected, py::handle found) {
    throw py::type_error(std::string(name) + ": expected " + expected + ", found " + text(found));
}

// A value by the type of its field. The name is that of the field, which outlives all.

void convert(const py::object& value, const char* name, double& number) {
    number = outlasting([&] { return PyFloat_AsDouble(value.ptr()); });
    if (!PyErr_Occurred()) return;
    PyErr_Clear();
    refuse(name, "a real number", value);
}

void convert(const py::object& value, const char* name, std::int64_t& number) {
    const py::object integer = py::reinterpret_steal<py::object>(PyNumber_Index(value.ptr()));
    number = integer ? PyLong_AsLongLong(integer.ptr()) : 0;
    if (!PyErr_Occurred()) return;
    PyErr_Clear();
    refuse(name, "an integer of 64 bits", value);
}

void convert(const py::object& value, const char* name, bool& flag) {
    if (!PyBool_Check(value.ptr())) refuse(name, "True or False", value);
    flag = value.is(py::bool_(true));
}

void convert(const py::object& value, const char* name, DType& dtype) {
    for (const DType each : {DType::float16, DType::bfloat16, DType::float32, DType::float64}) {
        if (!value.equal(py::str(std::string(to_string(each))))) continue;
        dtype = each;
        return;
    }
    refuse(name, "the name of a dtype", value);
}

void convert(const py::object& value, const char* name, RowUpdates& row_updates) {
    for (const RowUpdates each : {RowUpdates::lazy, RowUpdates::caught_up}) {
        if (!value.equal(py::str(std::string(to_string(each))))) continue;
        row_updates = each;
        return;
    }
    refuse(name, "'lazy' or 'caught_up'", value);
}

void convert(const py::object& value, const char* name, SlotDType& slot_dtype) {
    for (const SlotDType each : {SlotDType::float32, SlotDType::bfloat16, SlotDType::float8}) {
        if (!value.equal(py::str(std::string(to_string(each))))) continue;
        slot_dtype = each;
        return;
    }
    refuse(name, "'float32', 'bfloat16' or 'float8'", value);
}

void convert(const py::object& value, const char* name, std::map<std::string, SlotDType>& slot_dtypes) {
    slot_dtypes.clear();
    if (value.is_none()) return;
    if (!py::isinstance<py::dict>(value)) refuse(name, "a dict of names of variables, or None", value);
    for (const auto& [variable, slot_dtype] : py::reinterpret_borrow<py::dict>(value)) {
        if (!py::isinstance<py::str>(variable)) refuse(name, "the name of a variable", variable);
        convert(py::reinterpret_borrow<py::object>(slot_dtype), name, slot_dtypes[variable.cast<std::string>()]);
    }
}

void convert(const py::object& value, const char* name, Hyperparameter& hyperparameter) {
    hyperparameter = python::hyperparameter(value, name);
}

void convert(const py::object& value, const char* name, Muon::MatrixProduct& function) {
    if (!PyCallable_Check(value.ptr())) refuse(name, "a function of (a, b, out)", value);
    function = [product = share(value)](const Tensor& a, const Tensor& b, const Tensor& out) {
        const Locked locked;
        call(*product, live_view(a, py::none()), live_view(b, py::none()), live_view(out, py::none()));
    };
}

void convert(const py::object& value, const char* name, Muon::Exclusion& function) {
    if (!PyCallable_Check(value.ptr())) refuse(name, "a function of a name", value);
    function = [excludes = share(value)](const std::string& variable) {
        const Locked locked;
        return call(*excludes, py::str(variable)).cast<bool>();
    };
}

template <class Value>
void convert(const py::object& value, const char* name, std::optional<Value>& optional) {
    optional.reset();
    if (!value.is_none()) convert(value, name, optional.emplace(Value(0)));
}

/// Fills an object: a value for each of its fields, and nothing else.
void fill(const std::vector<AnyField>& fields, const char* owner, const py::kwargs& values) {
    std::string names;
    for (const AnyField& field : fields) {
        names += (names.empty() ? "" : ", ") + std::string(field.name);
        if (!values.contains(field.name)) {
            throw py::type_error(std::string(field.name) + ": expected a value for each hyperparameter of " + owner +
                                 ", found none");
        }
        set_field(field, values[field.name]);
    }
    if (values.size() == fields.size()) return;
    for (const std::pair<py::handle, py::handle>& item : values) {
        const std::string name = py::str(item.first);
        if (std::ranges::none_of(fields, [&](const AnyField& field) { return name == field.name; })) {
            throw py::type_error(name + ": expected a hyperparameter of " + owner + " (" + names + "), found " + name +
                                 "=" + text(item.second));
        }
    }
}

py::object shown(bool flag) {
    return py::bool_(flag);
}
py::object shown(double number) {
    return py::float_(number);
}
py::object shown(std::int64_t number) {
    return py::int_(number);
}
py::object shown(const Hyperparameter& number) {
    return py::float_(number.value());
}
py::object shown(DType dtype) {
    return py::str(std::string(to_string(dtype)));
}
py::object shown(RowUpdates row_updates) {
    return py::str(std::string(to_string(row_updates)));
}
py::object shown(SlotDType slot_dtype) {
    return py::str(std::string(to_string(slot_dtype)));
}
py::object shown(const std::map<std::string, SlotDType>& slot_dtypes) {
    py::dict names;
    for (const auto& [name, slot_dtype] : slot_dtypes) names[py::str(name)] = shown(slot_dtype);
    return names;
}
template <class Value>
py::object shown(const std::optional<Value>& value) {
    return value ? shown(*value) : py::none();
}
template <class Signature>
py::object shown(const std::function<Signature>&) {
    return py::none();
}

PyRule make_rule(const std::string& name, const py::kwargs& values) {
    std::string names;
    for (const AnyDefinition& definition : definitions()) {
        if (name == definition.name) {
            PyRule made{definition.make()};
            fill(definition.fields(made.rule), definition.name, values);
            return made;
        }
        names += (names.empty() ? "" : ", ") + std::string(definition.name);
    }
    throw std::invalid_argument("name: expected a rule (" + names + "), found '" + name + "'");
}

std::unique_ptr<Options> make_options(const py::kwargs& values) {
    auto made = std::make_unique<Options>();
    fill(fields_of(*made), Options::name, values);
    return made;
}

py::dict rule_defaults() {
    py::dict rules;
    for (const AnyDefinition& definition : definitions()) {
        py::dict values;
        Rule made = definition.make();
        for (const AnyField& field : definition.fields(made)) {
            field.visit([&](const auto& value) { values[field.name] = shown(value); });
        }
        rules[definition.name] = values;
    }
    return rules;
}

}  // namespace

Hyperparameter hyperparameter(const py::object& value, const char* name) {
    double number = 0.0;
    if (!PyCallable_Check(value.ptr())) {
        convert(value, name, number);
        return number;
    }
    return [function = share(value), name](std::int64_t step) {
        const Locked locked;
        double result;
        convert(call(*function, py::int_(step)), name, result);
        return result;
    };
}

void set_field(const AnyField& field, const py::object& value) {
    field.visit([&](auto& member) { convert(value, field.name, member); });
}

void register_rules(py::module_& module) {
    py::class_<PyRule>(module, "Rule");
    module.def("rule", &make_rule, py::arg("name"), py::pos_only());
    module.def("rule_defaults", &rule_defaults);
    py::class_<Options>(module, "Options").def(py::init(&make_options));
}

}  // namespace fusedopt::python
