// Steps on a host's objects: its parameters with their gradients, and its dict of state. What a step needs is collected
// first, since that may run any Python code. Only then it is looked up where everything lies, and until the sweep is
// over no code of the caller's runs on this thread. All that is read or written stays referenced for so long.
// One file, though long: the two halves of a call share what is kept of every parameter between calls.
#include <fusedopt/hosted.hpp>

#include <pybind11/critical_section.h>
#include <pybind11/gil_safe_call_once.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/hosted_rules.hpp"
#include "gil.hpp"
#include "hosted_reading.hpp"
#include "hosted_settings.hpp"
#include "interned.hpp"
#include "register.hpp"
#include "rules.hpp"

namespace fusedopt::python {
namespace {

struct Names {
    py::str grad, step;
};

const Names& names() {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<Names> storage;
    return storage.call_once_and_store_result([] { return Names{interned("grad"), interned("step")}; }).get_stored();
}

std::string name_of_type(py::handle object) {
    return py::type::handle_of(object).attr("__name__").cast<std::string>();
}

/// The value of a key, or none if there is no such key, or None there.
py::object item(PyObject* dict, const py::object& key) {
    PyObject* found = PyDict_GetItemWithError(dict, key.ptr());
    if (!found && PyErr_Occurred()) throw py::error_already_set();
    return found && found != Py_None ? py::reinterpret_borrow<py::object>(found) : py::object();
}

/// A parameter and what the host keeps for it. Whatever a step does not need is null.
struct Parameter {
    py::object object;
    py::object gradient;
    py::object indices;  // of the rows that the gradient is for, if it is of rows
    py::object state;
    std::array<py::object, 3> slots;
    py::object average;
    py::object master;
    py::object step;
    py::object product;
    KeptNumber step_number;
    KeptNumber product_number;
};

struct Request {
    const py::list& groups;
    const py::dict& state;
    HostedOptions options;
    std::optional<py::object> average_key;
    std::optional<py::object> master_key;
    std::optional<py::object> on_update;
};

using Answer = std::tuple<bool, std::optional<double>, py::list>;

/// All that a call works with, kept for the next one.
class Work {
public:
    explicit Work(const AnyDefinition& definition)
        : settings_(definition), counts_(std::string_view(definition.name) != TorchSGD::name) {}

    Answer run(const Request& request) {
        const py::list updated = collect(request.groups);
        py::list missing = locate(request);
        if (!missing.empty()) return {false, std::nullopt, missing};
        HostedResult result{};
        {
            const Unlocked unlocked;
            result = core_.run(std::span(hosted_).first(group_count_), request.options);
            if (result.stepped) write_numbers();
        }
        if (result.stepped) {
            replace_numbers();
            if (request.on_update) call(*request.on_update, updated);
        }
        return {result.stepped, result.norm, missing};
    }

    std::optional<double> update(Parameter&& parameter, const py::dict& settings, std::int64_t step,
                                 std::optional<double> clipnorm);

    /// Releases the host's objects.
    void let_go() {
        for (std::size_t k = 0; k < used_; ++k) parameters_[k] = {};
        used_ = 0;
    }

private:
    struct Keys {
        const char* name = nullptr;
        py::object key;
    };
    struct Group {
        std::vector<AnyField> places;  // of its settings
        HostedRule rule;
        std::array<Keys, 3> slots;
        Keys product;
        std::size_t slot_count = 0;
        std::size_t first = 0;  // of its parameters
        std::size_t count = 0;
    };

    void prepare_groups(std::size_t count) {
        group_count_ = count;
        if (hosted_.size() >= count) return;
        hosted_.resize(count);
        groups_.resize(count);
        for (std::size_t k = 0; k < count; ++k) {
            groups_[k].places = settings_.places_in(hosted_[k]);
        }
    }

    void prepare_group(std::size_t g, const py::dict& settings) {
        Group& group = groups_[g];
        try {
            settings_.read(settings, hosted_[g], group.places);
        } catch (const py::type_error& error) {
            throw py::type_error(group_name(g) + ": " + error.what());
        }
        const RuleSpec& spec = group.rule.spec_of(hosted_[g].rule, g);
        group.slot_count = spec.slots.size();
        for (std::size_t k = 0; k < group.slot_count; ++k) set_key(group.slots[k], spec.slots[k].name);
        if (spec.numbers.empty()) {
            group.product.name = nullptr;
        } else {
            set_key(group.product, spec.numbers[0].name);
        }
    }

    static void set_key(Keys& keys, const char* name) {
        if (keys.name == name) return;
        keys.key = interned(name);
        keys.name = name;
    }

    Parameter& new_parameter() {
        if (used_ == parameters_.size()) parameters_.emplace_back();
        return parameters_[used_++];
    }

    // The caller's code may run in the first of these. It returns the parameters that have a gradient.
    py::list collect(const py::list& groups);
    py::list locate(const Request& request);  // the parameters whose state is incomplete
    bool collect_state(const Request& request, StateOf& states, std::size_t g, std::size_t i);
    bool locate_parameter(bool has_masters, std::size_t g, std::size_t i);
    template <class Who>
    void locate_number(KeptNumber& number, py::object& object, const Who& who);
    void write_numbers();
    void replace_numbers();

    template <class Use>
    void for_each(const Use& use) {
        for (std::size_t g = 0; g < group_count_; ++g) {
            for (std::size_t i = 0; i < groups_[g].count; ++i) {
                const std::size_t k = groups_[g].first + i;
                use(g, i, parameters_[k], variables_[k]);
            }
        }
    }

    Settings settings_;
    bool counts_;  // PyTorch's SGD keeps no count
    HostedStep core_;
    std::vector<HostedGroup> hosted_;
    std::vector<Group> groups_;
    std::size_t group_count_ = 0;
    std::vector<Parameter> parameters_;
    std::size_t used_ = 0;
    std::vector<HostedVariable> variables_;
    Reader reader_;
    Exchange of_parameters_, of_gradients_, of_state_;
    Tensor number_;
};

bool Work::collect_state(const Request& request, StateOf& states, std::size_t g, std::size_t i) {
    const Group& group = groups_[g];
    Parameter& parameter = parameters_[group.first + i];
    if (group.slot_count == 0 && !counts_ && !request.average_key && !request.master_key) return true;
    // Kept, as a comparison of keys may run code that drops it.
    const auto state = py::reinterpret_borrow<py::object>(states.find(parameter.object.ptr()));
    if (!state) return !parameter.gradient;
    if (!PyDict_Check(state.ptr())) {
        throw py::type_error(parameter_name(g, i) + ": expected a dict as its state, found " +
                             name_of_type(state.ptr()));
    }
    bool is_complete = true;
    const auto take = [&](const py::object& key, py::object& place) {
        place = item(state.ptr(), key);
        is_complete = is_complete && place;
    };
    if (request.average_key) take(*request.average_key, parameter.average);
    if (request.master_key) parameter.master = item(state.ptr(), *request.master_key);
    if (!parameter.gradient) return true;
    parameter.state = state;
    for (std::size_t k = 0; k < group.slot_count; ++k) take(group.slots[k].key, parameter.slots[k]);
    if (group.product.name) take(group.product.key, parameter.product);
    if (counts_) {
        take(names().step, parameter.step);
    } else {
        parameter.step = item(state.ptr(), names().step);
    }
    return is_complete;
}

/// A parameter as the host knows it, not the array that it may have been converted to.
py::object given(const py::list& groups, std::size_t g, std::size_t i) {
    return py::list(py::tuple(groups[g])[0])[i];
}

py::list Work::collect(const py::list& groups) {
    py::list with_gradients;
    prepare_groups(groups.size());
    for (std::size_t g = 0; g < group_count_; ++g) {
        const py::object pair = groups[g];
        if (!PyTuple_Check(pair.ptr()) || PyTuple_GET_SIZE(pair.ptr()) != 2 ||
            !PyList_Check(PyTuple_GET_ITEM(pair.ptr(), 0)) || !PyDict_Check(PyTuple_GET_ITEM(pair.ptr(), 1))) {
            throw py::type_error(group_name(g) + ": expected a tuple of a list of parameters and a dict of settings, " +
                                 "found " + name_of_type(pair));
        }
        prepare_group(g, py::reinterpret_borrow<py::dict>(PyTuple_GET_ITEM(pair.ptr(), 1)));
        PyObject* const list = PyTuple_GET_ITEM(pair.ptr(), 0);
        const py::scoped_critical_section alone(list);
        groups_[g].first = used_;
        for (Py_ssize_t i = 0; i < PyList_GET_SIZE(list); ++i) {
            Parameter& parameter = new_parameter();
            parameter.object = py::reinterpret_borrow<py::object>(PyList_GET_ITEM(list, i));
            parameter.gradient = py::reinterpret_steal<py::object>(
                outlasting([&] { return PyObject_GetAttr(parameter.object.ptr(), names().grad.ptr()); }));
            if (!parameter.gradient) throw py::error_already_set();
            if (parameter.gradient.is_none()) {
                parameter.gradient = py::object();
            } else {
                with_gradients.append(parameter.object);
            }
        }
        groups_[g].count = used_ - groups_[g].first;
    }
    if (variables_.size() < used_) variables_.resize(used_);
    for (std::size_t g = 0; g < group_count_; ++g) {
        hosted_[g].variables = std::span(variables_).subspan(groups_[g].first, groups_[g].count);
    }
    return with_gradients;
}

py::list Work::locate(const Request& request) {
    const bool has_masters = request.master_key.has_value();
    py::list missing;
    const py::scoped_critical_section alone(request.state);
    StateOf states(request.state);
    reader_.begin(false);
    for_each([&](std::size_t g, std::size_t i, Parameter& parameter, HostedVariable&) {
        const bool is_complete = collect_state(request, states, g, i) && locate_parameter(has_masters, g, i);
        if (!is_complete) missing.append(parameter.object);
    });
    if (!missing.empty() || (!reader_.has_converted() && !states.has_run_code())) return missing;
    reader_.begin(true);
    for_each([&](std::size_t g, std::size_t i, Parameter&, HostedVariable&) {
        if (!locate_parameter(has_masters, g, i)) missing.append(given(request.groups, g, i));
    });
    return missing;
}

template <class Who>
void Work::locate_number(KeptNumber& number, py::object& object, const Who& who) {
    if (number.take(object)) return;
    if (reader_.read_written(of_state_, object, number_, who)) number.take(number_, who);
}

/// Refuses a gradient of rows that claims to be of another shape than the variable; nothing if that must be read again.
template <class Who>
void require_shape(const Tensor& variable, const py::object& shape, const Who& who) {
    const auto found = shape.cast<std::vector<std::int64_t>>();
    if (!variable || std::ranges::equal(found, variable.shape())) return;
    const std::vector<std::int64_t> expected(variable.shape().begin(), variable.shape().end());
    const auto text = [](const auto& sizes) {
        return py::repr(py::tuple(py::cast(sizes))).template cast<std::string>();
    };
    throw std::invalid_argument(who() + ": expected shape " + text(expected) + ", found " + text(found));
}

bool Work::locate_parameter(bool has_masters, std::size_t g, std::size_t i) {
    const Group& group = groups_[g];
    Parameter& parameter = parameters_[group.first + i];
    HostedVariable& variable = variables_[group.first + i];
    const auto named = [&](const char* what) {
        return [=] { return parameter_name(g, i) + (*what ? ": " : "") + what; };
    };
    const auto read = [&](Exchange& exchange, py::object& object, Tensor& tensor, const char* what) {
        if (object) {
            reader_.read_written(exchange, object, tensor, named(what));
        } else if (tensor) {
            tensor = Tensor();
        }
    };
    read(of_state_, parameter.average, variable.average, "average");
    if (!parameter.gradient) {
        if (variable.gradient) variable.gradient = Tensor();
        if (variable.indices) variable.indices = Tensor();
        if (!parameter.average) return true;
    }
    read(of_parameters_, parameter.object, variable.variable, "");
    const bool is_narrow = variable.variable && item_size(variable.variable.dtype()) == 2;
    if (is_narrow && has_masters && !parameter.master) return false;
    py::object none;
    read(of_state_, is_narrow ? parameter.master : none, variable.master, "master copy");
    if (!parameter.gradient) return true;
    const py::object shape = reader_.read_gradient(of_gradients_, parameter.gradient, variable.gradient,
                                                   parameter.indices, named("gradient"));
    if (!shape.is_none()) require_shape(variable.variable, shape, named("gradient"));
    if (parameter.indices) {
        reader_.read_indices(of_gradients_, parameter.indices, variable.indices, named("gradient, indices"));
    } else if (variable.indices) {
        variable.indices = Tensor();
    }
    for (std::size_t k = 0; k < parameter.slots.size(); ++k) {
        read(of_state_, parameter.slots[k], variable.slots[k], k < group.slot_count ? group.slots[k].name : "");
    }
    variable.step = 2;
    if (parameter.step) {
        locate_number(parameter.step_number, parameter.step, named("step"));
        const double step = parameter.step_number.value();
        constexpr double largest = 9007199254740991.0;  // 2^53 - 1
        if (!(step >= 0.0 && step <= largest && std::floor(step) == step)) {
            throw std::invalid_argument(named("step")() + ": expected a count from 0 to 2^53 - 1, found " +
                                        py::str(py::float_(step)).cast<std::string>());
        }
        variable.step = static_cast<std::int64_t>(step) + 1;
    }
    if (parameter.product) {
        locate_number(parameter.product_number, parameter.product, named(group.product.name));
        variable.product = parameter.product_number.value();
        variable.product_dtype = parameter.product_number.dtype();
    }
    return true;
}

void Work::write_numbers() {
    for_each([](std::size_t, std::size_t, const Parameter& parameter, const HostedVariable& variable) {
        if (!parameter.gradient) return;
        if (parameter.step && parameter.step_number.is_in_memory()) {
            parameter.step_number.write(static_cast<double>(variable.step));
        }
        if (parameter.product && parameter.product_number.is_in_memory()) {
            parameter.product_number.write(variable.product);
        }
    });
}

void Work::replace_numbers() {
    const auto set = [](const Parameter& parameter, const py::object& key, const py::object& value) {
        if (PyDict_SetItem(parameter.state.ptr(), key.ptr(), value.ptr()) != 0) throw py::error_already_set();
    };
    for_each([&](std::size_t g, std::size_t, const Parameter& parameter, const HostedVariable& variable) {
        if (parameter.step && !counts_) {
            if (PyDict_DelItem(parameter.state.ptr(), names().step.ptr()) != 0) throw py::error_already_set();
        } else if (parameter.step && !parameter.step_number.is_in_memory()) {
            set(parameter, names().step, parameter.step_number.as_python(static_cast<double>(variable.step)));
        }
        if (parameter.product && !parameter.product_number.is_in_memory()) {
            set(parameter, groups_[g].product.key, py::float_(variable.product));
        }
    });
}

std::optional<double> Work::update(Parameter&& parameter, const py::dict& settings, std::int64_t step,
                                   std::optional<double> clipnorm) {
    prepare_groups(1);
    prepare_group(0, settings);
    if (groups_[0].product.name) {
        throw std::invalid_argument("rule: expected one without a number of its own, found " +
                                    std::string(settings_.definition().name) + "; use HostedStep");
    }
    new_parameter() = std::move(parameter);
    groups_[0].first = 0;
    groups_[0].count = 1;
    if (variables_.empty()) variables_.resize(1);
    hosted_[0].variables = std::span(variables_).first(1);
    reader_.begin(false);
    locate_parameter(false, 0, 0);
    if (reader_.has_converted()) {
        reader_.begin(true);
        locate_parameter(false, 0, 0);
    }
    variables_[0].step = step;
    const Unlocked unlocked;
    return core_.run(std::span(hosted_).first(1), {.clipnorm = clipnorm}).norm;
}

/// Gives each call work of its own, and keeps it for later ones. A call may come on another thread, or from the code
/// that a call runs.
class Pool {
public:
    explicit Pool(const AnyDefinition& definition) : definition_(definition) {}

    template <class Use>
    auto use(const Use& use) {
        Borrowed borrowed(*this);
        return use(*borrowed.work);
    }

private:
    struct Borrowed {
        explicit Borrowed(Pool& from) : pool(from), work(pool.take()) {}
        ~Borrowed() {
            work->let_go();
            pool.give_back(std::move(work));
        }
        Borrowed(const Borrowed&) = delete;
        Borrowed& operator=(const Borrowed&) = delete;

        Pool& pool;
        std::unique_ptr<Work> work;
    };

    std::unique_ptr<Work> take() {
        {
            const std::lock_guard lock(mutex_);
            if (!idle_.empty()) {
                auto work = std::move(idle_.back());
                idle_.pop_back();
                return work;
            }
        }
        return std::make_unique<Work>(definition_);
    }

    void give_back(std::unique_ptr<Work> work) {
        const std::lock_guard lock(mutex_);
        idle_.push_back(std::move(work));
    }

    const AnyDefinition& definition_;
    std::mutex mutex_;
    std::vector<std::unique_ptr<Work>> idle_;
};

class PyHostedStep {
public:
    explicit PyHostedStep(const std::string& rule) : pool_(definition_named(rule)) { warn_of_environment(); }

    Answer run(const py::list& groups, const py::dict& state, std::optional<double> max_norm, double unscale,
               bool skip_nonfinite, std::uint64_t seed, std::optional<py::object> average_key,
               std::optional<py::object> master_key, std::optional<py::object> on_update) {
        const Request request{
            groups,
            state,
            {.max_norm = max_norm, .unscale = unscale, .skip_nonfinite = skip_nonfinite, .seed = seed},
            std::move(average_key),
            std::move(master_key),
            std::move(on_update)};
        return pool_.use([&](Work& work) { return work.run(request); });
    }

private:
    Pool pool_;
};

Pool& pool_of(const std::string& rule) {
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<std::vector<std::unique_ptr<Pool>>> storage;
    const auto make = [] {
        std::vector<std::unique_ptr<Pool>> pools;
        for (const AnyDefinition& definition : definitions()) pools.push_back(std::make_unique<Pool>(definition));
        return pools;
    };
    const auto& pools = storage.call_once_and_store_result(make).get_stored();
    return *pools[static_cast<std::size_t>(&definition_named(rule) - definitions().data())];
}

/// A message about a group and a parameter if there is but one.
std::string of_the_only_one(std::string text) {
    const std::pair<std::string, std::string> changes[] = {
        {" of " + parameter_name(0, 0), ""}, {parameter_name(0, 0), "variable"}, {group_name(0) + ": ", ""}};
    for (const auto& [from, to] : changes) {
        for (std::size_t k; (k = text.find(from)) != std::string::npos;) text.replace(k, from.size(), to);
    }
    return text;
}

std::optional<double> hosted_update(const std::string& rule, const py::object& variable, const py::object& gradient,
                                    const py::sequence& slots, const py::dict& settings, std::int64_t step,
                                    const py::object& average, std::optional<double> clipnorm) {
    Parameter parameter;
    if (slots.size() > parameter.slots.size()) {
        throw std::invalid_argument("slots: expected at most 3, found " + std::to_string(slots.size()));
    }
    parameter.object = variable;
    parameter.gradient = gradient;
    for (std::size_t k = 0; k < slots.size(); ++k) parameter.slots[k] = slots[k];
    if (!average.is_none()) parameter.average = average;
    try {
        return pool_of(rule).use(
            [&](Work& work) { return work.update(std::move(parameter), settings, step, clipnorm); });
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(of_the_only_one(error.what()));
    } catch (const py::type_error& error) {
        throw py::type_error(of_the_only_one(error.what()));
    }
}

}  // namespace

void register_hosted(py::module_& module) {
    py::class_<PyHostedStep>(module, "HostedStep")
        .def(py::init<const std::string&>(), py::arg("rule"))
        .def("run", &PyHostedStep::run, py::arg("groups"), py::arg("state"), py::kw_only(),
             py::arg("max_norm") = py::none(), py::arg("unscale") = 1.0, py::arg("skip_nonfinite") = false,
             py::arg("seed") = 0, py::arg("average_key") = py::none(), py::arg("master_key") = py::none(),
             py::arg("on_update") = py::none());
    module.def("hosted_update", &hosted_update, py::arg("rule"), py::arg("variable"), py::arg("gradient"),
               py::arg("slots"), py::arg("settings"), py::arg("step"), py::kw_only(), py::arg("average") = py::none(),
               py::arg("clipnorm") = py::none());
}

}  // namespace fusedopt::python
