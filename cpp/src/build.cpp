// Taking variables: what is refused, where state lies, and who touches it first.
#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <type_traits>
#include <utility>

#include <fusedopt/runtime.hpp>

#include "levels.hpp"
#include "state.hpp"

namespace fusedopt {
namespace {

std::string who_is(std::size_t index, const std::string& name) {
    return "variable " + std::to_string(index) + (name == std::to_string(index) ? "" : " ('" + name + "')");
}

void check_variable(const Tensor& tensor, const std::string& who) {
    if (!tensor) throw std::invalid_argument(who + ": expected an array, found none");
    if (tensor.dtype() == DType::int64) {
        throw std::invalid_argument(who + ": expected float16, bfloat16, float32 or float64, found int64");
    }
    if (!tensor.is_writable()) {
        throw std::invalid_argument(who + ": expected writable memory, found a read-only array; pass a writable copy");
    }
    if (!tensor.is_contiguous()) {
        throw std::invalid_argument(who + ": expected C-contiguous memory, found a strided array of shape " +
                                    to_string(tensor.shape()) + "; pass numpy.ascontiguousarray(...) of it");
    }
    if (!tensor.is_aligned()) {
        throw std::invalid_argument(who + ": expected memory aligned to its element size (" +
                                    std::to_string(item_size(tensor.dtype())) +
                                    " bytes), found a misaligned array; pass a copy");
    }
}

std::size_t elements_of(const Slot& slot, const Tensor& variable) {
    std::size_t count = 1;
    for (const std::int64_t extent : shape_of(slot, variable)) count *= static_cast<std::size_t>(extent);
    return count;
}

bool has_array(const Slot& slot) {
    return slot.form != Form::derived && slot.form != Form::placeholder;
}

std::vector<Range> sorted_ranges(const std::vector<Variable>& variables) {
    std::vector<Range> ranges;
    for (std::size_t i = 0; i < variables.size(); ++i) {
        const Tensor& tensor = variables[i].tensor;
        const auto* begin = static_cast<const std::byte*>(tensor.data());
        if (tensor.size() > 0) ranges.push_back({begin, begin + tensor.size_bytes(), i});
    }
    std::ranges::sort(ranges, {}, &Range::begin);
    for (std::size_t k = 1; k < ranges.size(); ++k) {
        if (ranges[k].begin < ranges[k - 1].end) {
            const auto [first, second] = std::minmax(ranges[k - 1].index, ranges[k].index);
            throw std::invalid_argument(who_is(second, variables[second].name) +
                                        ": expected memory of its own, found it overlapping " +
                                        who_is(first, variables[first].name));
        }
    }
    return ranges;
}

}  // namespace

Optimizer::State::Layout Optimizer::State::lay_out(std::span<const Tensor> tensors, std::span<const std::string> names,
                                                   std::span<const Tensor> all) const {
    if (is_built) throw std::invalid_argument("build: the optimizer is built already");
    if (!names.empty() && names.size() != tensors.size()) {
        throw std::invalid_argument("build: expected a name for each of " + std::to_string(tensors.size()) +
                                    " variables, found " + std::to_string(names.size()));
    }
    Layout layout;
    const Rule chosen = rule;  // a function of Muon's may set another
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const std::string name = names.empty() ? std::to_string(i) : names[i];
        check_variable(tensors[i], who_is(i, name));
        const std::size_t branch =
            std::visit([&](const auto& r) { return fusedopt::branch_of(r, tensors[i], name); }, chosen);
        layout.variables.push_back(
            {nullptr, DType::float32, true, static_cast<std::uint8_t>(branch), tensors[i], name});
    }
    layout.ranges = sorted_ranges(layout.variables);
    for (const Tensor& tensor : excluded) {
        const auto same = [&](const Tensor& other) {
            return other.data() == tensor.data() && other.size_bytes() == tensor.size_bytes();
        };
        const auto found = std::ranges::find_if(layout.variables, same, &Variable::tensor);
        if (found != layout.variables.end()) {
            found->decays = false;
        } else if (std::ranges::none_of(all, same)) {
            throw std::invalid_argument(
                "exclude_from_weight_decay: expected variables given to build, found one of shape " +
                to_string(tensor.shape()) + " that is not among them");
        }
    }
    return layout;
}

void Optimizer::State::build(std::span<const Tensor> tensors, std::span<const std::string> names,
                             std::span<const Tensor> all) {
    read_environment();
    Layout layout = lay_out(tensors, names, all);
    std::vector<kernel::Job> new_jobs;
    Arena new_arena = allocate(layout, new_jobs);
    SweepPlan new_whole, new_selected;
    new_selected.reserve(new_jobs.size());
    for (std::size_t i = 0; i < new_jobs.size(); ++i) new_whole.add(i, new_jobs[i].size);
    new_whole.run([&](std::size_t i, std::int64_t begin, std::int64_t end) { initialize(new_jobs[i], begin, end); });

    for (std::size_t i = 0; i < new_jobs.size(); ++i) initialize_means(layout.variables[i].tensor, new_jobs[i]);
    std::unique_ptr<Procedure> new_procedure =
        std::visit([&](const auto& r) { return make_procedure(r, layout.variables, new_jobs); }, rule);

    const std::size_t tiles = new_jobs.empty() ? 0 : new_jobs.back().first_partial + tile_count(new_jobs.back());
    sums_of_squares.resize(tiles);
    if (has_trust_ratio()) trust_partials.resize(tiles);
    common.resize(branches.size());
    procedure = std::move(new_procedure);
    variables = std::move(layout.variables);
    ranges = std::move(layout.ranges);
    jobs = std::move(new_jobs);
    whole = std::move(new_whole);
    selected = std::move(new_selected);
    arena = std::move(new_arena);
    last_step_with_gradient.assign(variables.size(), 0);
    is_built = true;
}

void Optimizer::State::initialize_means(const Tensor& variable, const kernel::Job& job) const {
    const std::vector<Slot>& slots = branch_of(job).slots;
    for (std::size_t k = 0; k < slots.size(); ++k) {
        if (slots[k].form != Form::rows && slots[k].form != Form::columns) continue;
        if (const std::size_t elements = elements_of(slots[k], variable)) {
            std::memset(job.slots[k], 0, elements * (job.computes_in_double ? 8 : 4));
        }
    }
}

Arena Optimizer::State::allocate(const Layout& layout, std::vector<kernel::Job>& new_jobs) const {
    std::size_t tiles = 0;
    for (const Variable& variable : layout.variables) {
        const DType dtype = variable.tensor.dtype();
        kernel::Job job{};
        job.size = variable.tensor.size();
        (item_size(dtype) == 2 ? job.storage : job.weight) = variable.tensor.data();
        job.storage_element = element_of(dtype);
        job.computes_in_double = dtype == DType::float64;
        job.clip_factor = 1.0;
        job.branch = variable.branch;
        job.decays = variable.decays;
        job.first_partial = tiles;
        tiles += tile_count(job);
        new_jobs.push_back(job);
    }
    // Arrays of a kind lie together: a sweep over many small variables then reads as few streams as over a large one.
    Arena new_arena;
    std::vector<std::pair<void**, std::size_t>> offsets;  // pointers when all is reserved
    const auto reserve = [&](const auto& array_of, const auto& elements_of_variable) {
        for (std::size_t i = 0; i < new_jobs.size(); ++i) {
            const std::optional<std::size_t> elements = elements_of_variable(layout.variables[i]);
            const std::size_t item = new_jobs[i].computes_in_double ? 8 : 4;
            if (elements) offsets.emplace_back(&array_of(new_jobs[i]), new_arena.reserve(*elements * item));
        }
        new_arena.separate();
    };
    const auto all_elements = [](const Variable& variable) {
        return std::optional(static_cast<std::size_t>(variable.tensor.size()));
    };
    for (std::size_t k = 0; k < kernel::max_slots; ++k) {
        reserve([k](kernel::Job& job) -> void*& { return job.slots[k]; },
                [&, k](const Variable& variable) -> std::optional<std::size_t> {
                    const std::vector<Slot>& slots = branches[variable.branch].slots;
                    if (k >= slots.size() || !has_array(slots[k])) return std::nullopt;
                    return elements_of(slots[k], variable.tensor);
                });
    }
    reserve([](kernel::Job& job) -> void*& { return job.weight; },
            [&](const Variable& variable) {
                return item_size(variable.tensor.dtype()) == 2 ? all_elements(variable) : std::nullopt;
            });
    if (options.use_ema) reserve([](kernel::Job& job) -> void*& { return job.average; }, all_elements);
    if (options.gradient_accumulation_steps) {
        reserve([](kernel::Job& job) -> void*& { return job.accumulator; }, all_elements);
    }
    new_arena.allocate();
    for (const auto& [pointer, offset] : offsets) *pointer = new_arena.at(offset);
    return new_arena;
}

void Optimizer::State::initialize(const kernel::Job& job, std::int64_t begin, std::int64_t end) const {
    const auto fill = [&](void* array, double value) {
        if (!array) return;
        if (job.computes_in_double) {
            std::fill(static_cast<double*>(array) + begin, static_cast<double*>(array) + end, value);
        } else {
            std::fill(static_cast<float*>(array) + begin, static_cast<float*>(array) + end, static_cast<float>(value));
        }
    };
    fill(job.average, 0.0);
    fill(job.accumulator, 0.0);
    // A master copy of zeros differs from what the variable holds, and the first step takes what it holds.
    if (job.storage) fill(job.weight, 0.0);
    const std::vector<Slot>& slots = branch_of(job).slots;
    for (std::size_t k = 0; k < slots.size(); ++k) {
        if (slots[k].form != Form::rows && slots[k].form != Form::columns) fill(job.slots[k], slots[k].initial);
        if (!slots[k].copies_variable) continue;
        if (job.storage) {
            // Work on a 16-bit variable begins with bringing its master copy up to date; an average makes it work.
            kernel::Job averaging = job;
            averaging.average = job.slots[k];
            current_kernels().hold[false]({}, {&averaging, &averaging, begin, end});
        }
        const std::size_t bytes = job.computes_in_double ? 8 : 4;
        const std::size_t offset = static_cast<std::size_t>(begin) * bytes;
        std::memcpy(static_cast<std::byte*>(job.slots[k]) + offset, static_cast<std::byte*>(job.weight) + offset,
                    static_cast<std::size_t>(end - begin) * bytes);
    }
}

}  // namespace fusedopt
