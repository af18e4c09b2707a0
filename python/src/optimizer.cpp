// The optimizers as Python holds them: the core's object, and the arrays whose memory it updates.
// One file, though long: the three kinds of optimizer share one definition of what they have in common.
#include <fusedopt/loss_scale_optimizer.hpp>
#include <fusedopt/multi_optimizer.hpp>
#include <fusedopt/optimizer.hpp>

#include <pybind11/stl.h>

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <functional>
#include <list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "built.hpp"
#include "gil.hpp"
#include "register.hpp"
#include "rules.hpp"
#include "sharding.hpp"
#include "staging.hpp"

namespace fusedopt::python {
namespace {

/// An array over a copy, which it keeps alive. What would be written into it would be lost, so nothing can be.
py::array view_of_copy(const NamedTensor& copy) {
    using Memory = std::shared_ptr<const void>;
    auto memory = std::make_unique<Memory>(copy.memory);
    const py::capsule keeper(memory.get(), [](void* held) { delete static_cast<Memory*>(held); });
    memory.release();
    py::array array = live_view(copy.tensor, keeper);
    array.attr("flags").attr("writeable") = false;
    return array;
}

/// Live views, or what the core has copied.
py::list views_of(const std::vector<NamedTensor>& state, py::handle owner) {
    py::list list;
    for (const NamedTensor& each : state) {
        list.append(py::make_tuple(each.name, each.memory ? view_of_copy(each) : live_view(each.tensor, owner)));
    }
    return list;
}

const py::array* array_of(const py::array& value) {
    return &value;
}
const py::array* array_of(const std::optional<py::array>& value) {
    return value ? &*value : nullptr;
}

/// Values for set_weights, or for set_state, where some may be missing. The package has brought them to the right
/// dtypes.
template <class Value>
std::vector<Tensor> views(const std::vector<Value>& values) {
    std::vector<Tensor> tensors;
    for (std::size_t i = 0; i < values.size(); ++i) {
        const py::array* const given = array_of(values[i]);
        if (!given) {
            tensors.emplace_back();
            continue;
        }
        tensors.push_back(state_view(*given, "set_weights: array " + std::to_string(i)));
    }
    return tensors;
}

std::vector<py::object> listed(const py::sequence& objects) {
    std::vector<py::object> list;
    for (const py::handle object : objects) list.push_back(py::reinterpret_borrow<py::object>(object));
    return list;
}

/// Builds while no step runs, so that a step finds the core and the arrays of one build. It calls `prepare` with the
/// GIL, then `commit` without it.
template <class Core, class Prepare, class Commit>
void build_between_steps(const Core& core, const Prepare& prepare, const Commit& commit) {
    warn_of_environment();
    const Unlocked unlocked;
    core.between_steps([&] {
        {
            const Locked locked;
            prepare();
        }
        commit();
    });
}

/// What the three kinds of optimizer have in common: their cores' faces, which are called without the GIL, and what was
/// built.
class Common {
public:
    virtual ~Common() = default;
    virtual const Current& built() const = 0;
    virtual void follow() = 0;
    virtual std::vector<NamedTensor> variables() const = 0;
    virtual std::vector<NamedTensor> state() const = 0;
    virtual void set_weights(std::span<const Tensor> values) = 0;
    virtual void set_state(std::span<const Tensor> values) = 0;
    virtual void between_steps(const std::function<void()>& function) const = 0;
    virtual void catch_up(const py::object& variable, const py::object& indices) = 0;
    virtual void finalize_variable_values(std::span<const Tensor> variables) = 0;
    virtual void begin_evaluation() = 0;
    virtual void end_evaluation() = 0;
    virtual bool is_built() const = 0;
    virtual bool evaluating() const = 0;
    virtual std::int64_t iterations() const = 0;
    virtual std::int64_t calls() const = 0;
    virtual std::int64_t state_bytes() const = 0;
    virtual std::optional<double> global_norm() const = 0;
    virtual void set_global_norm(std::optional<double> global_norm) = 0;
    virtual double learning_rate() const = 0;
    virtual std::int64_t skipped_steps() const = 0;
};

/// Refuses variables that are no longer what they were at build, and follows those whose library has moved them.
void check_memory(Common& held) {
    held.built()->check_arrays();
    held.follow();
}

template <class Core>
class CommonOf : public Common {
public:
    explicit CommonOf(std::shared_ptr<Core> core_) : core(std::move(core_)) {}

    bool apply(const py::object& gradients, const py::object& variables) {
        return python::apply(*core, built(), gradients, variables);
    }
    void follow() final { python::follow(*core, *built()); }
    std::vector<NamedTensor> variables() const final { return core->variables(); }
    std::vector<NamedTensor> state() const final { return core->state(); }
    void set_weights(std::span<const Tensor> values) final { core->set_weights(values); }
    void set_state(std::span<const Tensor> values) final { core->set_state(values); }
    void between_steps(const std::function<void()>& function) const final { core->between_steps(function); }
    void catch_up(const py::object& variable, const py::object& indices) final {
        python::catch_up(*core, built(), variable, indices);
    }
    void finalize_variable_values(std::span<const Tensor> variables) final {
        core->finalize_variable_values(variables);
    }
    void begin_evaluation() final { core->begin_evaluation(); }
    void end_evaluation() final { core->end_evaluation(); }
    bool is_built() const final { return core->built(); }
    bool evaluating() const final { return core->evaluating(); }
    std::int64_t iterations() const final { return core->iterations(); }
    std::int64_t calls() const final { return core->calls(); }
    std::int64_t state_bytes() const final { return core->state_bytes(); }
    std::optional<double> global_norm() const final { return core->global_norm(); }
    void set_global_norm(std::optional<double> global_norm) final { core->set_global_norm(global_norm); }

    const std::shared_ptr<Core> core;
};

class PyOptimizer final : public CommonOf<Optimizer> {
public:
    PyOptimizer(Rule rule, Options options)
        : CommonOf(std::make_shared<Optimizer>(std::move(rule), std::move(options))) {}

    void exclude_from_weight_decay(const py::sequence& objects) {
        std::vector<Tensor> tensors;
        for (std::size_t i = 0; i < objects.size(); ++i) {
            const std::string who = "exclude_from_weight_decay: variable " + std::to_string(i);
            excluded.push_back(variable_array(objects[i], who));
            tensors.push_back(view(excluded.back(), who, Elements::variable));
        }
        const Unlocked unlocked;
        core->exclude_from_weight_decay(tensors);
    }

    void build(const py::sequence& objects, const std::vector<std::string>& names) {
        std::list<Built> made;
        check_memory(*this);
        build_between_steps(
            *core, [&] { made = current.make(listed(objects), names); },
            [&] {
                core->build(made.back().tensors(), names);
                current.set(std::move(made), core->builds());
            });
        excluded.clear();
    }

    const Current& built() const override { return current; }
    double learning_rate() const override { return core->learning_rate(); }
    std::int64_t skipped_steps() const override { return core->skipped_steps(); }

    Current current;

private:
    std::vector<py::array> excluded;
};

/// Several optimizers; each also keeps its own variables, so that it can be used by itself.
class PyMulti final : public CommonOf<MultiOptimizer> {
public:
    PyMulti(std::vector<std::shared_ptr<PyOptimizer>> members_, std::optional<double> loss_scale_factor,
            std::optional<double> global_clipnorm, bool skip_nonfinite)
        : CommonOf(
              std::make_shared<MultiOptimizer>(cores_of(members_), loss_scale_factor, global_clipnorm, skip_nonfinite)),
          members(std::move(members_)) {}

    void build(const py::sequence& objects, const std::vector<std::string>& names,
               const std::vector<std::size_t>& assignment) {
        std::list<Built> made;
        std::vector<std::list<Built>> made_of_members;
        check_memory(*this);
        for (const auto& member : members) check_memory(*member);
        const auto prepare = [&] {
            made = current.make(listed(objects), names);
            const Built& all = made.back();
            for (std::size_t k = 0; k < members.size(); ++k) {
                std::vector<py::object> own;
                std::vector<std::string> own_names;
                for (std::size_t i = 0; i < std::min(assignment.size(), all.objects().size()); ++i) {
                    if (assignment[i] != k) continue;
                    own.push_back(all.objects()[i]);
                    if (!all.names().empty()) own_names.push_back(all.names()[i]);
                }
                made_of_members.push_back(members[k]->current.make(std::move(own), std::move(own_names)));
            }
        };
        build_between_steps(*core, prepare, [&] {
            core->build(made.back().tensors(), assignment, names);
            current.set(std::move(made), core->builds());
            for (std::size_t k = 0; k < members.size(); ++k) {
                members[k]->current.set(std::move(made_of_members[k]), members[k]->core->builds());
            }
        });
    }

    const Current& built() const override { return current; }
    [[noreturn]] double learning_rate() const override {
        throw py::attribute_error("MultiOptimizer has no learning rate; its optimizers have");
    }
    std::int64_t skipped_steps() const override { return core->skipped_steps(); }

private:
    static std::vector<std::shared_ptr<Optimizer>> cores_of(const std::vector<std::shared_ptr<PyOptimizer>>& members) {
        std::vector<std::shared_ptr<Optimizer>> cores;
        for (const auto& member : members) cores.push_back(member->core);
        return cores;
    }

    std::vector<std::shared_ptr<PyOptimizer>> members;
    Current current;
};

class PyLossScale final : public CommonOf<LossScaleOptimizer> {
public:
    template <class Inner>
    PyLossScale(const std::shared_ptr<Inner>& inner_, double initial_scale, std::int64_t dynamic_growth_steps)
        : CommonOf(std::make_shared<LossScaleOptimizer>(inner_->core,
                                                        LossScaleOptions{initial_scale, dynamic_growth_steps})),
          inner(inner_) {}

    const Current& built() const override { return inner->built(); }
    double learning_rate() const override { return inner->learning_rate(); }
    [[noreturn]] std::int64_t skipped_steps() const override {
        throw py::attribute_error(
            "LossScaleOptimizer has no skipped_steps; it has consecutive_skipped_steps, "
            "and the inner optimizer counts what it skips without a loss scale");
    }

private:
    std::shared_ptr<Common> inner;
};

py::list list(const py::object& self, std::vector<NamedTensor> (Common::*get)() const) {
    const auto& held = self.cast<const Common&>();
    std::vector<NamedTensor> variables;
    {
        const Unlocked unlocked;
        variables = (held.*get)();
    }
    return views_of(variables, self);
}

void set_weights(Common& held, const std::vector<py::array>& arrays) {
    const std::vector<Tensor> tensors = views(arrays);
    const Unlocked unlocked;
    held.set_weights(tensors);
}

void set_state(Common& held, const std::vector<std::optional<py::array>>& values) {
    const std::vector<Tensor> tensors = views(values);
    const Unlocked unlocked;
    held.set_state(tensors);
}

/// Calls a function while no step runs.
py::object between_steps(const Common& held, const py::object& function) {
    py::object result;
    {
        const Unlocked unlocked;
        held.between_steps([&] {
            const Locked locked;
            result = call(function);
        });
    }
    return result;
}

/// Copies C-contiguous arrays without the GIL.
std::vector<py::array> copies(const std::vector<py::array>& arrays) {
    std::vector<py::array> copied;
    std::vector<void*> targets;
    for (const py::array& array : arrays) {
        const std::vector<py::ssize_t> shape(array.shape(), array.shape() + array.ndim());
        copied.emplace_back(array.dtype(), shape);
        targets.push_back(copied.back().mutable_data());
    }
    const Unlocked unlocked;
    for (std::size_t i = 0; i < arrays.size(); ++i) {
        const auto size = static_cast<std::size_t>(arrays[i].nbytes());
        if (size > 0) std::memcpy(targets[i], arrays[i].data(), size);
    }
    return copied;
}

/// The variables, if they still are what was built.
std::vector<py::array> checked_arrays(Common& held) {
    check_memory(held);
    return held.built()->arrays();
}

/// Puts the weights to evaluate with into the variables.
void begin_evaluation(Common& held) {
    check_memory(held);
    const Unlocked unlocked;
    held.begin_evaluation();
}

/// Brings back those in training, also into variables that were made read-only meanwhile.
void end_evaluation(Common& held) {
    held.built()->check_places();
    held.follow();
    const Unlocked unlocked;
    held.end_evaluation();
}

void finalize_variable_values(Common& held, const py::sequence& objects) {
    check_memory(held);
    std::vector<Tensor> tensors;
    std::vector<py::array> arrays;
    for (std::size_t i = 0; i < objects.size(); ++i) {
        const std::string who = "finalize_variable_values: variable " + std::to_string(i);
        arrays.push_back(variable_array(objects[i], who));
        tensors.push_back(view(arrays.back(), who, Elements::variable));
    }
    const Unlocked unlocked;
    held.finalize_variable_values(tensors);
}

// Whatever takes the core's lock must release the GIL first. A learning-rate function may hold that lock while it waits
// for the GIL.
using CallUnlocked = py::call_guard<Unlocked>;

/// A property that is read without the GIL.
template <class Held, class Value>
py::cpp_function unlocked(Value (Held::*get)() const) {
    return py::cpp_function(get, CallUnlocked());
}

/// One of the core's own.
template <class Held, class Value, class Core>
py::cpp_function unlocked(Value (Core::*get)() const) {
    return py::cpp_function([get](const Held& self) { return ((*self.core).*get)(); }, CallUnlocked());
}

/// Its setter.
template <class Held, class Value, class Core>
py::cpp_function unlocked(void (Core::*set)(Value)) {
    return py::cpp_function([set](Held& self, Value value) { ((*self.core).*set)(value); }, CallUnlocked());
}

template <class Held>
void def_sharding(py::class_<Held, Common, std::shared_ptr<Held>>& optimizer) {
    optimizer
        .def(
            "shard",
            [](Held& self, const py::object& object, bool average) {
                Communicator made = communicator(object);
                const Unlocked unlocked;
                self.core->shard(std::move(made), average);
            },
            py::arg("communicator"), py::arg("average"))
        .def(
            "agree",
            [](Held& self, const std::string& operation, const std::string& facts, const std::string& error) {
                self.core->agree(operation, facts, error);
            },
            CallUnlocked(), py::arg("operation"), py::arg("facts"), py::arg("error"))
        .def(
            "piece_shape", [](Held& self, std::size_t variable) { return self.core->piece_shape(variable); },
            CallUnlocked(), py::arg("variable"))
        .def_property_readonly(
            "agreements", py::cpp_function([](const Held& self) { return self.core->agreements(); }, CallUnlocked()));
}

}  // namespace

void register_optimizers(py::module_& module) {
    py::register_exception<BuiltError>(module, "BuiltError", PyExc_ValueError);
    module.def("copies", &copies, py::arg("arrays"));
    module.def("offers_memory", &offers_memory, py::arg("value"));
    module.def("value_array", &value_array, py::arg("value"), py::arg("who"));

    // But for apply: to find the base of an object takes a twentieth of a small step.
    py::class_<Common, std::shared_ptr<Common>>(module, "Common")
        .def("variables", [](const py::object& self) { return list(self, &Common::variables); })
        .def("state", [](const py::object& self) { return list(self, &Common::state); })
        .def("set_weights", &set_weights, py::arg("values"))
        .def("set_state", &set_state, py::arg("values"))
        .def("between_steps", &between_steps, py::arg("function"))
        .def("checked_arrays", &checked_arrays)
        .def("catch_up", &Common::catch_up, py::arg("variable"), py::arg("indices"))
        .def("finalize_variable_values", &finalize_variable_values, py::arg("variables"))
        .def("begin_evaluation", &begin_evaluation)
        .def("end_evaluation", &end_evaluation)
        .def("set_global_norm", &Common::set_global_norm, CallUnlocked(), py::arg("global_norm"))
        .def_property_readonly("objects", [](const Common& self) { return self.built()->objects(); })
        .def_property_readonly("arrays", [](const Common& self) { return self.built()->arrays(); })
        .def_property_readonly("names", [](const Common& self) { return self.built()->names(); })
        .def_property_readonly("built", unlocked(&Common::is_built))
        .def_property_readonly("evaluating", unlocked(&Common::evaluating))
        .def_property_readonly("iterations", unlocked(&Common::iterations))
        .def_property_readonly("calls", unlocked(&Common::calls))
        .def_property_readonly("state_bytes", unlocked(&Common::state_bytes))
        .def_property_readonly("global_norm", unlocked(&Common::global_norm))
        .def_property_readonly("learning_rate", unlocked(&Common::learning_rate))
        .def_property_readonly("skipped_steps", unlocked(&Common::skipped_steps));

    py::class_<PyOptimizer, Common, std::shared_ptr<PyOptimizer>> optimizer(module, "Optimizer");
    def_sharding(optimizer);
    optimizer.def("apply", &PyOptimizer::apply, py::arg("gradients"), py::arg("variables"))
        .def_property_readonly("loss_scale_factor", unlocked<PyOptimizer>(&Optimizer::loss_scale_factor))
        .def(py::init([](const PyRule& rule, const Options& options) {
                 return std::make_shared<PyOptimizer>(rule.rule, options);
             }),
             py::arg("rule"), py::arg("options"))
        .def("exclude_from_weight_decay", &PyOptimizer::exclude_from_weight_decay, py::arg("variables"))
        .def("build", &PyOptimizer::build, py::arg("variables"), py::arg("names"))
        .def_property_readonly(
            "seed", py::cpp_function([](const PyOptimizer& self) { return self.core->options().seed; }, CallUnlocked()))
        .def(
            "set_learning_rate",
            [](PyOptimizer& self, const py::object& value) {
                Hyperparameter learning_rate = hyperparameter(value, "learning_rate");
                const Unlocked unlocked;
                self.core->set_learning_rate(std::move(learning_rate));
            },
            py::arg("learning_rate"))
        .def(
            "set_rule",
            [](PyOptimizer& self, const PyRule& rule) {
                Rule copy = rule.rule;
                const Unlocked unlocked;
                self.core->set_rule(std::move(copy));
            },
            py::arg("rule"))
        .def(
            "set_options",
            [](PyOptimizer& self, const Options& options) {
                Options copy = options;
                const Unlocked unlocked;
                self.core->set_options(std::move(copy));
            },
            py::arg("options"));

    py::class_<PyMulti, Common, std::shared_ptr<PyMulti>> multi(module, "MultiOptimizer");
    def_sharding(multi);
    multi.def("apply", &PyMulti::apply, py::arg("gradients"), py::arg("variables"))
        .def_property_readonly("loss_scale_factor", unlocked<PyMulti>(&MultiOptimizer::loss_scale_factor))
        .def(py::init<std::vector<std::shared_ptr<PyOptimizer>>, std::optional<double>, std::optional<double>, bool>(),
             CallUnlocked(), py::arg("optimizers"), py::arg("loss_scale_factor"), py::arg("global_clipnorm"),
             py::arg("skip_nonfinite"))
        .def("build", &PyMulti::build, py::arg("variables"), py::arg("names"), py::arg("assignment"))
        .def(
            "set_options",
            [](PyMulti& self, std::optional<double> loss_scale_factor, std::optional<double> global_clipnorm,
               bool skip_nonfinite) { self.core->set_options(loss_scale_factor, global_clipnorm, skip_nonfinite); },
            CallUnlocked(), py::arg("loss_scale_factor"), py::arg("global_clipnorm"), py::arg("skip_nonfinite"));

    py::class_<PyLossScale, Common, std::shared_ptr<PyLossScale>>(module, "LossScale")
        .def("apply", &PyLossScale::apply, py::arg("gradients"), py::arg("variables"))
        .def(py::init<const std::shared_ptr<PyOptimizer>&, double, std::int64_t>(), CallUnlocked(), py::arg("inner"),
             py::arg("initial_scale"), py::arg("dynamic_growth_steps"))
        .def(py::init<const std::shared_ptr<PyMulti>&, double, std::int64_t>(), CallUnlocked(), py::arg("inner"),
             py::arg("initial_scale"), py::arg("dynamic_growth_steps"))
        .def_property("dynamic_scale", unlocked<PyLossScale>(&LossScaleOptimizer::dynamic_scale),
                      unlocked<PyLossScale>(&LossScaleOptimizer::set_dynamic_scale))
        .def_property("dynamic_growth_steps", unlocked<PyLossScale>(&LossScaleOptimizer::dynamic_growth_steps),
                      unlocked<PyLossScale>(&LossScaleOptimizer::set_dynamic_growth_steps))
        .def_property_readonly("step_counter", unlocked<PyLossScale>(&LossScaleOptimizer::step_counter))
        .def_property_readonly("consecutive_skipped_steps",
                               unlocked<PyLossScale>(&LossScaleOptimizer::consecutive_skipped_steps));
}

}  // namespace fusedopt::python
