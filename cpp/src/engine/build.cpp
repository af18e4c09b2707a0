// Taking variables: what is refused, where state lies, and who touches it first.
#include <algorithm>
#include <cstring>
#include <optional>
#include <stdexcept>
#include <utility>

#include <fusedopt/runtime.hpp>

#include "engine/ranks.hpp"
#include "engine/state.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {

void Optimizer::State::require_apart(const Given& given) const {
    for (std::size_t i = 0; i < given.tensors.size(); ++i) {
        if (given.built[i] == unknown && owns(given.tensors[i])) {
            throw std::invalid_argument(who_is(i, given.names[i].text) +
                                        ": expected memory apart from the optimizer's state, found it overlapping");
        }
    }
}

Optimizer::State::Layout Optimizer::State::lay_out(const Given& given, std::span<const Tensor> all) const {
    Layout layout{{}, sorted_ranges(given), given.built};
    const Rule chosen = rule;  // a function of Muon's may set another
    for (std::size_t i = 0; i < given.tensors.size(); ++i) {
        const auto& [name, is_given] = given.names[i];
        const Variable* const old = given.built[i] == unknown ? nullptr : &variables[given.built[i]];
        const std::size_t branch = definition_of(chosen).branch(chosen, given.tensors[i], name);
        if (old && old->branch != branch) {
            throw std::invalid_argument(who_is(i, name) +
                                        ": expected a name that leaves it to the formula it was "
                                        "built with, found one that the rule's exclusions treat otherwise; make a new "
                                        "optimizer");
        }
        layout.variables.push_back({nullptr, DType::float32, old ? old->decays : true,
                                    static_cast<std::uint16_t>(branch), old ? old->tensor : given.tensors[i], name,
                                    is_given});
        if (!old) continue;
        layout.variables.back().whole_size = old->whole_size;
        layout.variables.back().begin = old->begin;
    }
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
    require_known_names(layout.variables);
    return layout;
}

void Optimizer::State::require_known_names(std::span<const Variable> all) const {
    for (const auto& [name, slot_dtype] : options.slot_dtypes) {
        if (std::ranges::find(all, name, &Variable::name) != all.end()) continue;
        throw std::invalid_argument("slot_dtypes: expected names of this optimizer's variables, found '" + name +
                                    "', which none of them has");
    }
}

Optimizer::State::Construction Optimizer::State::construct(Layout layout) const {
    read_environment();
    Construction made;
    made.layout = std::move(layout);
    const std::vector<std::size_t>& built = made.layout.built;
    made.arenas.reserve(arenas.size() + 1);
    made.arenas.push_back(allocate(made.layout, made.jobs));
    made.selected.reserve(made.jobs.size());
    made.without_average.reserve(made.jobs.size());
    SweepPlan fresh;
    for (std::size_t i = 0; i < made.jobs.size(); ++i) {
        made.whole.add(i, made.jobs[i].size);
        if (built[i] == unknown) fresh.add(i, made.jobs[i].size);
        if (options.use_ema && (built[i] == unknown || std::ranges::count(without_average, built[i]) > 0)) {
            made.without_average.push_back(i);
        }
    }
    fresh.run([&](std::size_t i, std::int64_t begin, std::int64_t end) { initialize(made.jobs[i], begin, end); });
    for (std::size_t i = 0; i < made.jobs.size(); ++i) {
        if (built[i] == unknown) initialize_short_slots(made.layout.variables[i].tensor, made.jobs[i]);
    }
    made.derived.resize(made.jobs.size());
    made.procedure = definition_of(rule).procedure(rule, made.layout.variables, made.jobs);
    const std::size_t tiles = made.jobs.empty() ? 0 : made.jobs.back().first_partial + tile_count(made.jobs.back());
    made.sums_of_squares.resize(tiles);
    made.last_step_with_gradient.assign(made.jobs.size(), 0);
    made.common.resize(branches.size());
    made.histories.resize(made.jobs.size());
    for (std::size_t i = 0; i < made.jobs.size() && options.row_updates == RowUpdates::caught_up; ++i) {
        const Tensor& tensor = made.layout.variables[i].tensor;
        const RuleSpec& branch = branch_of(made.jobs[i]);
        if (built[i] != unknown || branch.only_lazy || tensor.rank() == 0 || tensor.size() == 0) continue;
        made.histories[i] = History(tensor.shape()[0], branch.mover);
    }
    return made;
}

// Views of the state may be in use, so no array moves and none is freed.
void Optimizer::State::adopt(Construction&& made) noexcept {
    for (std::size_t i = 0; i < made.derived.size(); ++i) {
        if (made.layout.built[i] == unknown) continue;
        made.derived[i] = std::move(derived[made.layout.built[i]]);
        made.histories[i] = std::move(histories[made.layout.built[i]]);
    }
    for (Arena& arena : arenas) made.arenas.push_back(std::move(arena));
    arenas = std::move(made.arenas);
    derived = std::move(made.derived);
    procedure = std::move(made.procedure);
    variables = std::move(made.layout.variables);
    ranges = std::move(made.layout.ranges);
    jobs = std::move(made.jobs);
    whole = std::move(made.whole);
    selected = std::move(made.selected);
    without_average = std::move(made.without_average);
    sums_of_squares = std::move(made.sums_of_squares);
    last_step_with_gradient = std::move(made.last_step_with_gradient);
    common = std::move(made.common);
    histories = std::move(made.histories);
    excluded.clear();
    is_built = true;
    ++builds;
}

std::vector<const Variable*> Optimizer::State::built_variables() const {
    if (ranks) return ranks->whole_variables();
    std::vector<const Variable*> built;
    for (const Variable& variable : variables) built.push_back(&variable);
    return built;
}

Ranks* Optimizer::State::ranks_for(const char* function) const {
    if (ranks && is_member) {
        throw std::invalid_argument(std::string(function) +
                                    ": expected on the MultiOptimizer around this optimizer, which is sharded, found "
                                    "on its member");
    }
    return ranks.get();
}

void Optimizer::State::build(std::span<const Tensor> tensors, std::span<const std::string> names) {
    std::optional<Construction> made;
    const auto make = [&](const Ranks::Cut& cut) {
        require_not_stepping("build");
        require_training_weights("build");
        const std::vector<const Variable*> built = built_variables();
        const Given given = recognize(tensors, names, built, is_built);
        if (is_built && given.is_same(built)) return;
        if (is_member && is_built) {
            throw std::invalid_argument(
                "build: expected more variables on the MultiOptimizer around this optimizer, found them here");
        }
        require_apart(given);
        Layout layout = lay_out(given, tensors);
        if (cut) cut(given, {&layout, 1}, {});
        made = construct(std::move(layout));
    };
    Ranks::build(ranks_for("build"), make);
    if (made) adopt(std::move(*made));
}

void Optimizer::State::rebind(std::span<const Tensor> tensors, std::optional<std::int64_t> builds_then) {
    if (ranks && is_member) return;  // the MultiOptimizer around it follows
    require_built("rebind");
    require_not_stepping("rebind");
    require_latest("rebind", builds_then, builds);
    const Given given = relocated(tensors, built_variables());
    require_apart(given);
    Given own = given;
    if (ranks) own.tensors = ranks->pieces_of(tensors);
    std::vector<Range> own_ranges = sorted_ranges(own);
    if (ranks) ranks->move_to(given);
    move_to(own, std::move(own_ranges));
}

// A gradient that was known to be apart from the variables may not be so any more.
void Optimizer::State::move_to(const Given& given, std::vector<Range>&& new_ranges) noexcept {
    for (std::size_t i = 0; i < variables.size(); ++i) {
        void* const data = given.tensors[i].data();
        variables[i].tensor.move_to(data);
        variables[i].checked_gradient = nullptr;
        (item_size(variables[i].tensor.dtype()) == 2 ? jobs[i].storage : jobs[i].weight) = data;
    }
    ranges = std::move(new_ranges);
}

void Optimizer::State::initialize_short_slots(const Tensor& variable, const kernel::Job& job) const {
    const std::vector<Slot>& slots = branch_of(job).slots;
    for (std::size_t k = 0; k < slots.size(); ++k) {
        if (is_short(slots[k])) {
            const auto elements =
                static_cast<std::int64_t>(bytes_of(slots[k], job, variable)) / item_bytes(slots[k], job);
            fill(job, job.slots[k], 0, elements, slots[k].initial);
        }
    }
}

void Optimizer::State::set_slot_code(const Variable& variable, std::size_t index, kernel::Job& job) const {
    const RuleSpec& spec = branch_of(job);
    job.slot_code = slot_code_of(options, spec, variable);
    if (job.slot_code != kernel::SlotCode::float8) return;
    job.scales = blocks_of(job.size) * kernel::slot_block;
    if (!spec.is_rowwise || job.size == 0) return;
    const std::int64_t row_size = job.size / variable.tensor.shape()[0];
    if (has_whole_blocks(job, row_size)) return;
    refuse_row_size(who_is(index, variable.name) + " of a rule that goes row by row", row_size, variable.name);
}

Arena Optimizer::State::allocate(const Layout& layout, std::vector<kernel::Job>& new_jobs) const {
    std::size_t tiles = 0;
    for (const Variable& variable : layout.variables) {
        const DType dtype = variable.tensor.dtype();
        const std::size_t built = layout.built[new_jobs.size()];
        kernel::Job job{};
        if (built != unknown) {
            const kernel::Job& old = jobs[built];
            std::ranges::copy(old.slots, job.slots);
            job.weight = old.weight;
            job.average = old.average;
            job.accumulator = old.accumulator;
            job.slot_code = old.slot_code;
            job.scales = old.scales;
        }
        job.size = variable.tensor.size();
        (item_size(dtype) == 2 ? job.storage : job.weight) = variable.tensor.data();
        job.storage_element = element_of(dtype);
        job.computes_in_double = dtype == DType::float64;
        job.clip_factor = 1.0;
        job.branch = variable.branch;
        job.decays = variable.decays;
        // A piece's tiles have the numbers that they have in the whole variable.
        job.first_partial = tiles + static_cast<std::size_t>(variable.begin / kernel::tile);
        tiles += tiles_of(variable.whole_size);
        if (built == unknown) set_slot_code(variable, new_jobs.size(), job);
        if (built == unknown && job.size == 0) {
            const std::string who = who_is(new_jobs.size(), variable.name);
            for (const Slot& slot : branch_of(job).slots) check_slot_size(slot, job, variable.tensor, who);
        }
        new_jobs.push_back(job);
    }
    // Arrays of a kind lie together. A sweep over many small variables then reads as few streams as one over a large
    // variable.
    Arena new_arena;
    std::vector<std::pair<void**, std::size_t>> offsets;  // pointers when all is reserved
    const auto reserve = [&](const auto& array_of, const auto& bytes_of_array) {
        for (std::size_t i = 0; i < new_jobs.size(); ++i) {
            if (layout.built[i] != unknown) continue;
            const std::optional<std::size_t> bytes = bytes_of_array(new_jobs[i], layout.variables[i].tensor);
            if (bytes) offsets.emplace_back(&array_of(new_jobs[i]), new_arena.reserve(*bytes));
        }
        new_arena.separate();
    };
    const auto of_all_elements = [](const kernel::Job& job, const Tensor&) {
        return std::optional(static_cast<std::size_t>(job.size) * item_size(compute_type(job)));
    };
    for (std::size_t k = 0; k < kernel::max_slots; ++k) {
        reserve([k](kernel::Job& job) -> void*& { return job.slots[k]; },
                [&, k](const kernel::Job& job, const Tensor& variable) -> std::optional<std::size_t> {
                    const std::vector<Slot>& slots = branch_of(job).slots;
                    if (k >= slots.size() || !has_array(slots[k])) return std::nullopt;
                    return bytes_of(slots[k], job, variable);
                });
    }
    reserve([](kernel::Job& job) -> void*& { return job.weight; },
            [&](const kernel::Job& job, const Tensor& variable) {
                return job.storage && options.master ? of_all_elements(job, variable) : std::nullopt;
            });
    if (options.use_ema) reserve([](kernel::Job& job) -> void*& { return job.average; }, of_all_elements);
    if (options.gradient_accumulation_steps) {
        reserve([](kernel::Job& job) -> void*& { return job.accumulator; }, of_all_elements);
    }
    new_arena.allocate();
    for (const auto& [pointer, offset] : offsets) *pointer = new_arena.at(offset);
    return new_arena;
}

void Optimizer::State::initialize(const kernel::Job& job, std::int64_t begin, std::int64_t end) const {
    fill(job, job.average, begin, end, 0.0);
    fill(job, job.accumulator, begin, end, 0.0);
    // A master copy of zeros differs from what the variable holds, and the first step takes what it holds.
    if (job.storage) fill(job, job.weight, begin, end, 0.0);
    begin_slots(branch_of(job), job, begin, end);
}

}  // namespace fusedopt
