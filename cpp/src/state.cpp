// What an optimizer keeps, to be read and loaded: its options, its lists of state. build.cpp makes it, step.cpp steps
// it.
#include "state.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "check.hpp"
#include "levels.hpp"

namespace fusedopt {
kernel::Element element_of(DType dtype) {
    switch (dtype) {
        case DType::float16:
            return kernel::Element::float16;
        case DType::bfloat16:
            return kernel::Element::bfloat16;
        case DType::float32:
            return kernel::Element::float32;
        default:
            return kernel::Element::float64;
    }
}

std::vector<std::int64_t> shape_of(const Slot& slot, const Tensor& variable) {
    std::vector<std::int64_t> shape(variable.shape().begin(), variable.shape().end());
    if (slot.form == Form::rows) shape.pop_back();
    if (slot.form == Form::columns) shape.erase(shape.end() - 2);
    return shape;
}

std::string to_string(std::span<const std::int64_t> shape) {
    std::string text = "(";
    for (std::size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

std::string Optimizer::State::describe(std::size_t index) const {
    const std::string& name = variables[index].name;
    return "variable " + std::to_string(index) + (name == std::to_string(index) ? "" : " ('" + name + "')");
}

void Optimizer::State::require_built(const char* function) const {
    if (!is_built)
        throw std::invalid_argument(std::string(function) + ": the optimizer is not built; call build first");
}

void Optimizer::State::require_not_stepping(const char* function) const {
    if (is_stepping) {
        throw std::invalid_argument(std::string(function) + ": called by a function of its own step");
    }
}

double Optimizer::State::current_learning_rate() const {
    return learning_rate.is_number() ? learning_rate_value : learning_rate(calls);
}

std::vector<NamedTensor> Optimizer::State::named_variables(Extent extent) {
    std::vector<NamedTensor> list;
    const std::span<const std::int64_t> scalar;
    list.push_back({"iteration", Tensor(&calls, DType::int64, scalar)});
    if (learning_rate.is_number())
        list.push_back({"learning_rate", Tensor(&learning_rate_value, DType::float64, scalar)});
    const auto add_shaped = [&](const char* what, std::size_t i, void* array, std::span<const std::int64_t> shape) {
        list.push_back({std::string(what) + "/" + variables[i].name, Tensor(array, compute_type(jobs[i]), shape)});
    };
    const auto add = [&](const char* what, std::size_t i, void* array) {
        add_shaped(what, i, array, variables[i].tensor.shape());
    };
    const auto add_slot = [&](const Slot& slot, std::size_t i, void* array) {
        switch (slot.form) {
            case Form::hidden:
                return;
            case Form::placeholder:
                if (extent != Extent::keras) return;
                list.push_back(
                    {std::string(slot.name) + "/" + variables[i].name, Tensor(&placeholder, DType::int64, scalar)});
                return;
            case Form::derived:
                if (extent != Extent::complete) add(slot.name, i, procedure->derive(i, jobs[i]));
                return;
            default:
                add_shaped(slot.name, i, array, shape_of(slot, variables[i].tensor));
        }
    };
    for (std::size_t i = 0; i < jobs.size() && options.use_ema; ++i) add("average", i, jobs[i].average);
    for (std::size_t i = 0; i < jobs.size() && options.gradient_accumulation_steps; ++i) {
        add("gradient_accumulator", i, jobs[i].accumulator);
    }
    const std::vector<Slot>& first_slots = branches[0].slots;
    int groups = 0;
    for (const Slot& slot : first_slots) groups = std::max(groups, slot.group + 1);
    for (int group = 0; group < groups; ++group) {
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            const std::vector<Slot>& slots = branch_of(jobs[i]).slots;
            for (std::size_t k = 0; k < slots.size(); ++k) {
                if (slots[k].group == group) add_slot(slots[k], i, jobs[i].slots[k]);
            }
        }
    }
    const bool keras_has_numbers = extent == Extent::keras && is_built && !is_idle;
    for (std::size_t k = 0; k < numbers.size() && (keras_has_numbers || extent == Extent::complete); ++k) {
        list.push_back({branches[0].numbers[k].name, Tensor(&numbers[k], DType::float64, scalar)});
    }
    for (std::size_t i = 0; i < jobs.size() && extent == Extent::complete; ++i) {
        if (jobs[i].storage) add("master", i, jobs[i].weight);
    }
    if (options.skip_nonfinite && extent == Extent::complete)
        list.push_back({"skipped_steps", Tensor(&skipped_steps, DType::int64, scalar)});
    return list;
}

void Optimizer::State::check_weights(std::span<const Tensor> values, Extent extent) {
    require_built("set_weights");
    require_not_stepping("set_weights");
    require_training_weights("set_weights");
    const std::vector<NamedTensor> own = named_variables(extent);
    if (values.size() != own.size()) {
        throw std::invalid_argument("set_weights: expected " + std::to_string(own.size()) + " arrays, found " +
                                    std::to_string(values.size()));
    }
    for (std::size_t k = 0; k < own.size(); ++k) {
        const Tensor& expected = own[k].tensor;
        const Tensor& value = values[k];
        const std::string who = "set_weights: array " + std::to_string(k) + " (" + own[k].name + "): expected ";
        if (!value || !same_shape(value, expected)) {
            throw std::invalid_argument(who + "shape " + to_string(expected.shape()) + ", found " +
                                        (value ? to_string(value.shape()) : "none"));
        }
        if (value.dtype() != expected.dtype() || !value.is_contiguous()) {
            throw std::invalid_argument(who + "contiguous " + std::string(to_string(expected.dtype())) + ", found " +
                                        std::string(to_string(value.dtype())));
        }
    }
    std::int64_t count;
    std::memcpy(&count, values[0].data(), sizeof(count));
    require_counter("set_weights: iteration", count);
    if (learning_rate.is_number()) {
        double value;
        std::memcpy(&value, values[1].data(), sizeof(value));
        require_not_negative("set_weights: learning_rate", value);
    }
    if (options.skip_nonfinite && extent == Extent::complete) {
        std::memcpy(&count, values.back().data(), sizeof(count));
        require_counter("set_weights: skipped_steps", count);
    }
}

void Optimizer::State::copy_weights(std::span<const Tensor> values, Extent extent) {
    const std::vector<NamedTensor> own = named_variables(extent);
    for (std::size_t k = 0; k < own.size(); ++k) {
        const std::int64_t bytes = own[k].tensor.size_bytes();
        if (bytes > 0 && own[k].tensor.data() != values[k].data()) {
            std::memmove(own[k].tensor.data(), values[k].data(), static_cast<std::size_t>(bytes));
        }
    }
    // Master copies are none of Keras's values: the next step takes what the variables hold, whatever was trained
    // before.
    for (const kernel::Job& job : jobs) {
        if (job.storage && job.size > 0 && extent != Extent::complete) {
            std::memset(job.weight, 0, static_cast<std::size_t>(job.size) * sizeof(float));
        }
    }
    if (extent == Extent::wrapped) {
        std::visit([&](const auto& r) { definition_of(r).restore(r, calls, iterations(), numbers); }, rule);
    }
}

}  // namespace fusedopt
