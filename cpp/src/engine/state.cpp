// What an optimizer keeps, and how it is read and loaded. build.cpp makes it, and step.cpp advances it.
#include "engine/state.hpp"

#include <algorithm>
#include <array>
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

void Optimizer::State::append_slot(Listing& listing, std::size_t i, std::size_t k) {
    const kernel::Job& job = jobs[i];
    const RuleSpec& spec = branch_of(job);
    const Slot& slot = spec.slots[k];
    const Tensor& variable = variables[i].tensor;
    void* const array = job.slots[k];
    const bool is_complete = listing.extent() == Extent::complete;
    const auto name_of = [&](const std::string& what) { return what + "/" + variables[i].name; };
    const bool has_no_sign = job.slot_code == kernel::SlotCode::float8 && !slot.is_signed;
    const Listing::Check sign_check = has_no_sign ? check_not_negative : nullptr;
    if (slot.form == Form::hidden || (slot.form == Form::derived && is_complete)) return;
    if (slot.form == Form::placeholder) {
        if (listing.extent() != Extent::keras) return;
        listing.add(name_of(slot.name), Tensor(&placeholder, DType::int64, std::span<const std::int64_t>()));
    } else if (slot.form == Form::derived) {
        listing.add(name_of(slot.name), Tensor(derive(i), compute_type(job), variable.shape()));
    } else if (!is_coded(slot, job)) {
        listing.add(name_of(slot.name), Tensor(array, compute_type(job), shape_of(slot, variable)));
    } else if (!is_complete) {
        const auto read = [this, i, k](float* values) {
            SweepPlan plan;
            plan.add(i, jobs[i].size);
            plan.run([&](std::size_t, std::int64_t begin, std::int64_t end) {
                read_slot(branch_of(jobs[i]), jobs[i], k, begin, end, values + begin);
            });
        };
        listing.add_copy(name_of(slot.name), array, variable.shape(), read, sign_check);
    } else if (job.slot_code == kernel::SlotCode::bfloat16) {
        listing.add_codes(name_of(slot.name), Tensor(array, DType::bfloat16, variable.shape()), variable.shape());
    } else {
        const std::int64_t blocks = blocks_of(job.size);
        listing.add_codes(name_of(slot.name), Tensor(array, DType::uint8, std::array{blocks, kernel::slot_block}),
                          variable.shape(), sign_check);
        listing.add_scales(name_of(std::string(slot.name) + "_scale"),
                           Tensor(static_cast<std::byte*>(array) + job.scales, DType::uint16, std::array{blocks}),
                           check_scales);
    }
}

std::vector<NamedTensor> Optimizer::State::listed(Listing listing) {
    catch_up_all();
    append_to(listing);
    return listing.tensors();
}

void Optimizer::State::append_to(Listing& listing) {
    const Extent extent = listing.extent();
    if (extent == Extent::complete && iterations() > 0) begin_averages();
    listing.add_counter("iteration", calls);
    if (learning_rate.is_number()) {
        listing.add("learning_rate", learning_rate_value, [](const std::string& who, const Tensor& value) {
            double rate;
            std::memcpy(&rate, value.data(), sizeof(rate));
            require_not_negative(who.c_str(), rate);
        });
    }
    const auto add = [&](const char* what, std::size_t i, void* array) {
        listing.add(std::string(what) + "/" + variables[i].name,
                    Tensor(array, compute_type(jobs[i]), variables[i].tensor.shape()));
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
                if (slots[k].group == group) append_slot(listing, i, k);
            }
        }
    }
    const bool keras_has_numbers = extent == Extent::keras && is_built && !is_idle;
    for (std::size_t k = 0; k < numbers.size() && (keras_has_numbers || extent == Extent::complete); ++k) {
        listing.add(branches[0].numbers[k].name, numbers[k]);
    }
    for (std::size_t i = 0; i < jobs.size() && extent == Extent::complete; ++i) {
        if (jobs[i].storage && jobs[i].weight) add("master", i, jobs[i].weight);
    }
    if (rounds_at_random(options) && extent == Extent::complete) {
        listing.add("seed", Tensor(&options.seed, DType::int64, std::span<const std::int64_t>()),
                    [](const std::string& who, const Tensor& value) {
                        std::int64_t seed;
                        std::memcpy(&seed, value.data(), sizeof(seed));
                        require_field(who.c_str(), seed, domains::integer_from_0);
                    });
    }
    if (options.skip_nonfinite && extent == Extent::complete) listing.add_counter("skipped_steps", skipped_steps);
}

std::int64_t Optimizer::State::state_bytes() const {
    std::int64_t bytes = 0;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        const kernel::Job& job = jobs[i];
        for (const Slot& slot : branch_of(job).slots) {
            if (has_array(slot)) bytes += static_cast<std::int64_t>(bytes_of(slot, job, variables[i].tensor));
        }
        const bool has_master = job.storage && job.weight;
        const int arrays =
            has_master + (job.average != nullptr) + (job.accumulator != nullptr) + derived[i].is_allocated();
        bytes += arrays * job.size * static_cast<std::int64_t>(item_size(compute_type(job)));
        bytes += histories[i].size_bytes();
    }
    return bytes;
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
        if (job.storage && job.weight && job.size > 0 && loading.extent() != Extent::complete) {
            std::memset(job.weight, 0, static_cast<std::size_t>(job.size) * sizeof(float));
        }
    }
    encode_loaded(loading);
}

// What bounds the updates held for the numbers, and is to hold for their codes. Betas that are functions of the
// caller's are not called for it.
kernel::Guard Optimizer::State::guard_of_loaded(std::size_t branch) const {
    const AnyDefinition& definition = definition_of(rule);
    const Betas betas = definition.betas(rule);
    if (branches[branch].is_rowwise || iterations() == 0) return {};
    if (betas.beta_1 && !(betas.beta_1->is_number() && betas.beta_2->is_number())) return {};
    Now now{0.0, iterations(), 0.0, 0.0, {}};
    if (betas.beta_1) {
        now.beta_1 = betas.beta_1->value();
        now.beta_2 = betas.beta_2->value();
    }
    return definition.guard(rule, now, branch);
}

void Optimizer::State::encode_loaded(const Loading& loading) noexcept {
    const auto is_loaded = [&](const kernel::Job& job) {
        return job.slot_code != kernel::SlotCode::full &&
               std::ranges::any_of(job.slots, [&](const void* codes) { return loading.numbers_for(codes) != nullptr; });
    };
    selected.clear();
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        if (is_loaded(jobs[i])) selected.add(i, jobs[i].size);
    }
    selected.run([&](std::size_t i, std::int64_t begin, std::int64_t end) {
        kernel::Step step{};
        set_signs(branch_of(jobs[i]), step);
        step.guard = guard_of_loaded(jobs[i].branch);
        std::array<const float*, kernel::max_slots> values{};
        for (std::size_t k = 0; k < values.size(); ++k) {
            const float* const all = loading.numbers_for(jobs[i].slots[k]);
            if (all) values[k] = all + begin;
        }
        current_kernels().encode_slots(step, jobs[i], begin, end, values.data());
    });
}

}  // namespace fusedopt
