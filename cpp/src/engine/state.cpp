// What an optimizer keeps, and how it is read and loaded. build.cpp makes it, and step.cpp advances it.
#include "engine/state.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include "engine/check.hpp"
#include "runtime/levels.hpp"

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
    if (slot.form == Form::rowwise) shape.resize(1);
    if (slot.form == Form::rows) shape.pop_back();
    if (slot.form == Form::columns) shape.erase(shape.end() - 2);
    return shape;
}

namespace {

bool is_zero(const void* array, std::int64_t size_bytes) {
    const auto* from = static_cast<const std::byte*>(array);
    return std::all_of(from, from + size_bytes, [](std::byte byte) { return byte == std::byte{0}; });
}

}  // namespace

std::string Optimizer::State::describe(std::size_t index) const {
    return who_is(index, variables[index].name);
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

void* Optimizer::State::derive(std::size_t index) {
    Arena& memory = derived[index];
    if (!memory.is_allocated()) {
        memory.reserve(static_cast<std::size_t>(jobs[index].size) * (jobs[index].computes_in_double ? 8 : 4));
        memory.allocate();
    }
    procedure->derive(index, jobs[index], memory.at(0));
    return memory.at(0);
}

// Before the first update, the value of that update begins an average. Later an average covers all values so far, so
// one that begins now begins at the variable's value. An average that is not zero any more was written by hand.
void Optimizer::State::begin_averages() {
    if (iterations() > 0) {
        selected.clear();
        for (const std::size_t i : without_average) {
            if (is_zero(jobs[i].average, jobs[i].size * static_cast<std::int64_t>(item_size(compute_type(jobs[i]))))) {
                selected.add(i, jobs[i].size);
            }
        }
        selected.run([&](std::size_t i, std::int64_t begin, std::int64_t end) {
            kernel::Job job = jobs[i];
            job.gradient = nullptr;
            job.work = kernel::Work::none;
            current_kernels().other_work[job.computes_in_double]({}, {&job, &job, begin, end});
        });
    }
    without_average.clear();
}

void Optimizer::State::append_to(Listing& listing) {
    const Extent extent = listing.extent();
    if (extent == Extent::complete && iterations() > 0) begin_averages();
    listing.add_counter("iteration", calls);
    if (learning_rate.is_number()) {
        listing.add("learning_rate", learning_rate_value, [](const std::string& who, const void* value) {
            double rate;
            std::memcpy(&rate, value, sizeof(rate));
            require_not_negative(who.c_str(), rate);
        });
    }
    const auto add_shaped = [&](const char* what, std::size_t i, void* array, std::span<const std::int64_t> shape) {
        listing.add(std::string(what) + "/" + variables[i].name, Tensor(array, compute_type(jobs[i]), shape));
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
                listing.add(std::string(slot.name) + "/" + variables[i].name,
                            Tensor(&placeholder, DType::int64, std::span<const std::int64_t>()));
                return;
            case Form::derived:
                if (extent != Extent::complete) add(slot.name, i, derive(i));
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
        listing.add(branches[0].numbers[k].name, numbers[k]);
    }
    for (std::size_t i = 0; i < jobs.size() && extent == Extent::complete; ++i) {
        if (jobs[i].storage) add("master", i, jobs[i].weight);
    }
    if (options.skip_nonfinite && extent == Extent::complete) listing.add_counter("skipped_steps", skipped_steps);
}

void Optimizer::State::require_loadable() const {
    require_built("set_weights");
    require_not_stepping("set_weights");
    require_training_weights("set_weights");
}

std::vector<double> Optimizer::State::numbers_after(const Loading& loading) const {
    std::vector<double> after = numbers;
    if (std::ranges::any_of(numbers, [&](const double& number) { return loading.has(&number); })) {
        for (std::size_t k = 0; k < numbers.size(); ++k) after[k] = loading.value(numbers[k]);
    } else if (loading.has(&calls)) {
        const std::int64_t count = loading.value(calls);
        definition_of(rule).restore(rule, count, count / accumulation_steps, after);
    }
    return after;
}

void Optimizer::State::settle(const Loading& loading, const std::vector<double>& loaded_numbers) noexcept {
    std::ranges::copy(loaded_numbers, numbers.begin());
    std::erase_if(without_average, [&](std::size_t i) { return loading.has(jobs[i].average); });
    // Keras's values have no master copies. The next step takes what the variables hold, whatever was trained before.
    for (const kernel::Job& job : jobs) {
        if (job.storage && job.size > 0 && loading.extent() != Extent::complete) {
            std::memset(job.weight, 0, static_cast<std::size_t>(job.size) * sizeof(float));
        }
    }
}

}  // namespace fusedopt
