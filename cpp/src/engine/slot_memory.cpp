// How the options choose the memory of each slot, and how that begins, is read and is checked.
#include "engine/slot_memory.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <span>
#include <sstream>
#include <stdexcept>

#include "engine/state.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

constexpr auto slot_code(SlotDType dtype) {
    return static_cast<kernel::SlotCode>(dtype);
}
static_assert(slot_code(SlotDType::float32) == kernel::SlotCode::full);
static_assert(slot_code(SlotDType::bfloat16) == kernel::SlotCode::bfloat16);
static_assert(slot_code(SlotDType::float8) == kernel::SlotCode::float8);

/// What a variable of 16 bits holds. Work on it brings its master copy up to date, if it has one, and a job with an
/// average counts as work.
void read_narrow(const kernel::Job& job, std::int64_t begin, std::int64_t end, float* values) {
    kernel::Job part = job;
    part.size = end - begin;
    part.storage = static_cast<std::uint16_t*>(job.storage) + begin;
    if (job.weight) part.weight = static_cast<float*>(job.weight) + begin;
    part.average = values;
    part.accumulator = nullptr;
    std::fill_n(values, part.size, 0.0f);
    current_kernels().other_work[false]({}, {&part, &part, 0, part.size});
    if (part.weight) std::memcpy(values, part.weight, static_cast<std::size_t>(part.size) * sizeof(float));
}

void read_variable(const kernel::Job& job, std::int64_t begin, std::int64_t end, void* values) {
    if (job.storage) return read_narrow(job, begin, end, static_cast<float*>(values));
    const auto item = static_cast<std::int64_t>(item_size(compute_type(job)));
    std::memcpy(values, static_cast<const std::byte*>(job.weight) + begin * item,
                static_cast<std::size_t>((end - begin) * item));
}

void begin_full_slot(const Slot& slot, const kernel::Job& job, void* array, std::int64_t begin, std::int64_t end) {
    if (slot.copies_variable) {
        const auto item = static_cast<std::int64_t>(item_size(compute_type(job)));
        read_variable(job, begin, end, static_cast<std::byte*>(array) + begin * item);
    } else {
        fill(job, array, begin, end, slot.initial);
    }
}

/// Of zeros: no code, no scale.
void clear_codes(const kernel::Job& job, void* array, std::int64_t begin, std::int64_t end) {
    auto* const codes = static_cast<std::byte*>(array);
    const auto set = [&](std::int64_t from, std::int64_t to) {
        std::memset(codes + from, 0, static_cast<std::size_t>(to - from));
    };
    if (job.slot_code == kernel::SlotCode::bfloat16) return set(2 * begin, 2 * end);
    set(begin, blocks_of(end) * kernel::slot_block);
    set(job.scales + 2 * (begin / kernel::slot_block), job.scales + 2 * blocks_of(end));
}

}  // namespace

bool asks_for_codes(const Options& options) {
    const auto is_coded = [](SlotDType slot_dtype) { return slot_dtype != SlotDType::float32; };
    return is_coded(options.slot_dtype) ||
           std::ranges::any_of(options.slot_dtypes, [&](const auto& named) { return is_coded(named.second); });
}

std::string option_asking_for(const Options& options, SlotDType slot_dtype) {
    if (options.slot_dtype >= slot_dtype) return "slot_dtype";
    const auto found =
        std::ranges::find_if(options.slot_dtypes, [&](const auto& named) { return named.second >= slot_dtype; });
    return found == options.slot_dtypes.end() ? "" : "slot_dtypes['" + found->first + "']";
}

bool rounds_at_random(const Options& options) {
    return asks_for_codes(options) || !options.master;
}

// SplitMix64's bits of the optimizer's seed, so that optimizers with seeds next to each other share no step.
std::uint64_t seed_of(const Options& options, std::int64_t calls) {
    std::uint64_t x = static_cast<std::uint64_t>(options.seed) + 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return (x ^ (x >> 31)) + static_cast<std::uint64_t>(calls);
}

kernel::SlotCode slot_code_of(const Options& options, const RuleSpec& spec, const Variable& variable) {
    const bool has_full = std::ranges::any_of(spec.slots, [](const Slot& slot) { return slot.form == Form::full; });
    if (!has_full || variable.tensor.dtype() == DType::float64) return kernel::SlotCode::full;
    if (const auto named = options.slot_dtypes.find(variable.name); named != options.slot_dtypes.end()) {
        return slot_code(named->second);
    }
    const bool is_small = options.slot_dtype == SlotDType::float8 && variable.whole_size < least_coded;
    return is_small ? kernel::SlotCode::full : slot_code(options.slot_dtype);
}

std::vector<std::int64_t> shape_of(const Slot& slot, const Tensor& variable) {
    std::vector<std::int64_t> shape(variable.shape().begin(), variable.shape().end());
    if (slot.form == Form::rowwise) shape.resize(1);
    if (slot.form == Form::rows) shape.pop_back();
    if (slot.form == Form::columns) shape.erase(shape.end() - 2);
    return shape;
}

std::size_t bytes_of(const Slot& slot, const kernel::Job& job, const Tensor& variable) {
    if (is_coded(slot, job) && job.slot_code == kernel::SlotCode::float8) {
        return static_cast<std::size_t>(blocks_of(job.size)) * (kernel::slot_block + sizeof(std::uint16_t));
    }
    auto bytes = static_cast<std::size_t>(item_bytes(slot, job));
    for (const std::int64_t extent : shape_of(slot, variable)) bytes *= static_cast<std::size_t>(extent);
    return bytes;
}

void check_slot_size(const Slot& slot, const kernel::Job& job, const Tensor& variable, const std::string& who) {
    if (!has_array(slot)) return;
    const std::vector<std::int64_t> shape = shape_of(slot, variable);
    if (std::ranges::count(shape, 0) > 0) return;
    std::int64_t left = std::numeric_limits<std::int64_t>::max() / item_bytes(slot, job);
    for (const std::int64_t extent : shape) left /= extent;
    if (left > 0) return;
    throw std::invalid_argument(who + ": expected a shape whose slots fit into memory, found " +
                                to_string(variable.shape()));
}

std::int64_t item_bytes(const Slot& slot, const kernel::Job& job) {
    if (is_coded(slot, job)) return job.slot_code == kernel::SlotCode::bfloat16 ? 2 : 1;
    return static_cast<std::int64_t>(item_size(compute_type(job)));
}

void refuse_row_size(const std::string& who, std::int64_t row_size, const std::string& name) {
    throw std::invalid_argument(
        who + ": expected rows of a multiple of " + std::to_string(kernel::slot_block) +
        " elements, as so many share a scale in slots of float8, found rows of " + std::to_string(row_size) +
        "; give this variable slots of bfloat16, with slot_dtypes={'" + name + "': 'bfloat16'}");
}

void fill(const kernel::Job& job, void* array, std::int64_t begin, std::int64_t end, double value) {
    if (!array) return;
    if (job.computes_in_double) {
        std::fill(static_cast<double*>(array) + begin, static_cast<double*>(array) + end, value);
    } else {
        std::fill(static_cast<float*>(array) + begin, static_cast<float*>(array) + end, static_cast<float>(value));
    }
}

void set_signs(const RuleSpec& spec, kernel::Step& step) {
    for (std::size_t k = 0; k < spec.slots.size(); ++k) step.is_signed[k] = spec.slots[k].is_signed;
}

void begin_slots(const RuleSpec& spec, const kernel::Job& job, std::int64_t begin, std::int64_t end) {
    bool has_numbers = false;  // among the coded slots
    for (std::size_t k = 0; k < spec.slots.size(); ++k) {
        const Slot& slot = spec.slots[k];
        if (is_short(slot) || !has_array(slot)) continue;
        if (!is_coded(slot, job)) {
            begin_full_slot(slot, job, job.slots[k], begin, end);
        } else if (slot.copies_variable || slot.initial != 0.0) {
            has_numbers = true;
        } else {
            clear_codes(job, job.slots[k], begin, end);
        }
    }
    if (!has_numbers) return;
    kernel::Step step{};
    set_signs(spec, step);
    std::array<std::array<float, kernel::tile>, kernel::max_slots> numbers;
    for (std::int64_t i = begin, next; i < end; i = next) {
        next = std::min(i + kernel::tile, end);
        std::array<const float*, kernel::max_slots> values{};
        for (std::size_t k = 0; k < spec.slots.size(); ++k) {
            const Slot& slot = spec.slots[k];
            if (!is_coded(slot, job) || (!slot.copies_variable && slot.initial == 0.0)) continue;
            values[k] = numbers[k].data();
            if (slot.copies_variable) {
                read_variable(job, i, next, numbers[k].data());
            } else {
                numbers[k].fill(static_cast<float>(slot.initial));
            }
        }
        current_kernels().encode_slots(step, job, i, next, values.data());
    }
}

void read_slot(const RuleSpec& spec, const kernel::Job& job, std::size_t slot, std::int64_t begin, std::int64_t end,
               float* values) {
    current_kernels().decode_slot(job, static_cast<int>(slot), spec.slots[slot].is_signed, begin, end, values);
}

void check_not_negative(const std::string& who, const Tensor& numbers) {
    if (numbers.dtype() != DType::float32) return;
    const auto* const all = static_cast<const float*>(numbers.data());
    for (std::int64_t i = 0; i < numbers.size(); ++i) {
        if (!(all[i] < 0.0f)) continue;
        std::ostringstream found;
        found.precision(std::numeric_limits<float>::max_digits10);
        found << all[i];
        throw std::invalid_argument(who + ": expected numbers >= 0, as this slot of float8 has no sign, found " +
                                    found.str() + " at " + std::to_string(i));
    }
}

void check_scales(const std::string& who, const Tensor& scales) {
    constexpr unsigned fine = 0x4000, special = 0x8000, largest_base = 248;
    const auto* const all = static_cast<const std::uint16_t*>(scales.data());
    for (std::int64_t i = 0; i < scales.size(); ++i) {
        const unsigned scale = all[i], base = scale & 0xff, flags = scale & ~0xffu;
        if (base <= largest_base && (flags == 0 || flags == fine || flags == special)) continue;
        throw std::invalid_argument(who + ": expected scales as this optimizer writes them, found " +
                                    std::to_string(scale) + " at " + std::to_string(i) +
                                    "; the state is damaged, load another copy of it");
    }
}

}  // namespace fusedopt
