#include "rules.hpp"

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <utility>
#include <variant>

#include "arrays.hpp"
#include "gil.hpp"
#include "register.hpp"

namespace fusedopt::python {
namespace {

// Releases a Python object wherever it dies, with the GIL.
std::shared_ptr<py::object> share(py::object object) {
    return {new py::object(std::move(object)), [](py::object* held) {
                const Locked locked;
                delete held;
            }};
}

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

/// Fills a struct: a value for each of its fields, and nothing else.
template <class Struct>
Struct make(const py::kwargs& values) {
    Struct made{};
    std::string names;
    const auto take = [&](const auto& field) {
        names += (names.empty() ? "" : ", ") + std::string(field.name);
        if (!values.contains(field.name)) {
            throw py::type_error(std::string(field.name) + ": expected a value for each hyperparameter of " +
                                 Struct::name + ", found none");
        }
        convert(values[field.name], field.name, made.*field.member);
    };
    std::apply([&](const auto&... field) { (take(field), ...); }, Struct::fields());
    if (values.size() == std::tuple_size_v<decltype(Struct::fields())>) return made;
    const auto is_field = [&](const std::string& name) {
        return std::apply([&](const auto&... field) { return ((name == field.name) || ...); }, Struct::fields());
    };
    for (const std::pair<py::handle, py::handle>& item : values) {
        const std::string name = py::str(item.first);
        if (!is_field(name)) {
            throw py::type_error(name + ": expected a hyperparameter of " + Struct::name + " (" + names + "), found " +
                                 name + "=" + text(item.second));
        }
    }
    return made;
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
template <class Value>
py::object shown(const std::optional<Value>& value) {
    return value ? shown(*value) : py::none();
}
template <class Signature>
py::object shown(const std::function<Signature>&) {
    return py::none();
}

template <class Struct>
py::dict defaults() {
    py::dict values;
    const Struct made{};
    std::apply([&](const auto&... field) { ((values[field.name] = shown(made.*field.member)), ...); },
               Struct::fields());
    return values;
}

/// Calls visit.operator()<Struct>() for each rule.
template <class Visit>
void for_each_rule(const Visit& visit) {
    [&]<class... Rules>(const std::variant<Rules...>*) {
        (visit.template operator()<Rules>(), ...);
    }(static_cast<const Rule*>(nullptr));
}

PyRule make_rule(const std::string& name, const py::kwargs& values) {
    std::optional<PyRule> made;
    std::string names;
    for_each_rule([&]<class Struct>() {
        names += (names.empty() ? "" : ", ") + std::string(Struct::name);
        if (name == Struct::name) made = PyRule{make<Struct>(values)};
    });
    if (made) return *std::move(made);
    throw std::invalid_argument("name: expected a rule (" + names + "), found '" + name + "'");
}

py::dict rule_defaults() {
    py::dict rules;
    for_each_rule([&]<class Struct>() { rules[Struct::name] = defaults<Struct>(); });
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

void register_rules(py::module_& module) {
    py::class_<PyRule>(module, "Rule");
    module.def("rule", &make_rule, py::arg("name"), py::pos_only());
    module.def("rule_defaults", &rule_defaults);
    py::class_<Options>(module, "Options").def(py::init(&make<Options>));
}

}  // namespace fusedopt::python
