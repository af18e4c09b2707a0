// One step: check everything, measure if a norm or an overflow check is on, fold all factors into one scale and one
// keep a variable, hand out tiles. Nothing is written before the last check has passed.
// One file, though long: its phases are read from top to bottom, in the order in which they run.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "engine/bounds.hpp"
#include "engine/check.hpp"
#include "engine/ranks.hpp"
#include "engine/state.hpp"
#include "engine/stepping.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

static_assert(most_dimensions == kernel::most_dimensions);

}  // namespace

bool is_checked(const Variable& variable, const Tensor& gradient) {
    return gradient.data() == variable.checked_gradient && gradient.dtype() == variable.checked_dtype &&
           gradient.is_contiguous() && same_shape(gradient, variable.tensor);
}

void require_apart(std::size_t index, const Tensor& gradient, std::span<const Variable> variables,
                   std::span<const Range> ranges, bool lies_in_state) {
    const auto who = [&] { return "gradient of " + who_is(index, variables[index].name); };
    if (const std::size_t overlapped = overlapped_by(gradient, ranges); overlapped != unknown) {
        throw std::invalid_argument(who() + ": expected memory apart from the variables, found it overlapping " +
                                    who_is(overlapped, variables[overlapped].name));
    }
    if (lies_in_state) {
        throw std::invalid_argument(who() + ": expected memory apart from the optimizer's state, found it overlapping");
    }
}

void check_gradient(std::size_t index, const Tensor& gradient, std::span<Variable> variables,
                    std::span<const Range> ranges, bool lies_in_state) {
    Variable& variable = variables[index];
    const auto who = [&] { return "gradient of " + who_is(index, variable.name); };
    if (!same_shape(gradient, variable.tensor)) {
        throw std::invalid_argument(who() + ": expected shape " + to_string(variable.tensor.shape()) + ", found " +
                                    to_string(gradient.shape()));
    }
    if (!is_floating(gradient.dtype())) {
        throw std::invalid_argument(who() + ": expected float16, bfloat16, float32 or float64, found " +
                                    std::string(to_string(gradient.dtype())));
    }
    require_apart(index, gradient, variables, ranges, lies_in_state);
    if (gradient.is_contiguous()) {
        variable.checked_gradient = gradient.data();
        variable.checked_dtype = gradient.dtype();
    }
}

void require_latest(const char* function, std::optional<std::int64_t> builds, std::int64_t latest) {
    if (builds.value_or(latest) == latest) return;
    throw std::invalid_argument(std::string(function) +
                                ": expected the variables as they were when the call began, found them built again "
                                "meanwhile; call it again");
}

std::size_t checked_index(std::span<const std::size_t> indices, std::size_t position, std::size_t variables) {
    if (indices[position] < variables) return indices[position];
    throw std::invalid_argument("apply: index at position " + std::to_string(position) +
                                ": expected the place of one of the " + std::to_string(variables) +
                                " variables given to build, found " + std::to_string(indices[position]));
}

std::size_t Optimizer::State::find(const Tensor& tensor) const {
    if (!tensor.is_contiguous()) return unknown;  // the same memory in another order
    const auto* begin = static_cast<const std::byte*>(tensor.data());
    if (tensor.size() == 0) {
        const auto same = [&](const Variable& v) { return v.tensor.size() == 0 && v.tensor.data() == tensor.data(); };
        const auto found = std::ranges::find_if(variables, same);
        return found == variables.end() ? unknown : static_cast<std::size_t>(found - variables.begin());
    }
    const auto found = std::ranges::lower_bound(ranges, begin, {}, &Range::begin);
    if (found == ranges.end() || found->begin != begin || found->end != begin + tensor.size_bytes()) return unknown;
    return found->index;
}

std::size_t Optimizer::State::index_of(std::size_t position, const Tensor& tensor) const {
    if (position < variables.size() && tensor.size() > 0 && tensor.is_contiguous() &&
        variables[position].tensor.data() == tensor.data() &&
        variables[position].tensor.size_bytes() == tensor.size_bytes()) {
        return position;
    }
    const std::size_t index = find(tensor);
    if (index == unknown) {
        throw std::invalid_argument("apply: variable at position " + std::to_string(position) +
                                    ": expected one given to build, found an array of shape " +
                                    to_string(tensor.shape()) + " in other memory");
    }
    return index;
}

std::size_t Optimizer::State::overlapped_by(const Tensor& gradient) const {
    return fusedopt::overlapped_by(gradient, ranges);
}

bool Optimizer::State::owns(const Tensor& gradient) const {
    if (gradient.size() == 0) return false;
    const Bounds bounds = bounds_of(gradient);
    return std::ranges::any_of(arenas, [&](const Arena& arena) { return arena.contains(bounds.low, bounds.high); });
}

void Optimizer::State::assign_gradient(std::size_t index, const Tensor& gradient, const Tensor* indices) {
    if (indices) return assign_rows(index, gradient, *indices);
    kernel::Job& job = jobs[index];
    if (!gradient) {
        job.gradient = nullptr;
        job.work = is_update && job.accumulator ? kernel::Work::discard : kernel::Work::none;
        return;
    }
    if (!is_checked(variables[index], gradient)) {
        check_gradient(index, gradient, variables, ranges, owns(gradient));
    }
    has_any_gradient = true;
    if (job.size > 0) ++sized_gradients;
    const kernel::Element element = element_of(gradient.dtype());
    const kernel::Work work = is_update ? kernel::Work::update : kernel::Work::accumulate;
    const bool is_plain = gradient.is_contiguous() && gradient.is_aligned();
    if (is_plain && job.gradient == gradient.data() && job.gradient_element == element && job.work == work &&
        !job.strides) {
        return;  // a job that is not written stays in the caches of all threads
    }
    job.gradient = gradient.data();
    job.gradient_element = element;
    job.work = work;
    job.shape = is_plain ? nullptr : gradient.shape().data();
    job.strides = is_plain ? nullptr : gradient.strides().data();
    job.rank = static_cast<std::uint8_t>(gradient.rank());
}

void Optimizer::State::assign_rows(std::size_t index, const Tensor& values, const Tensor& indices) {
    kernel::Job& job = jobs[index];
    const auto who = [&] { return "gradient of " + describe(index); };
    if (const char* reason = branch_of(job).no_rows) {
        throw std::invalid_argument(who() + ": expected a dense one, as " + reason + ", found one of rows");
    }
    if (options.gradient_accumulation_steps) {
        throw std::invalid_argument(who() +
                                    ": expected a dense one under gradient_accumulation_steps, found one of rows; give "
                                    "the values and indices of all batches together, once, without accumulation");
    }
    Table& table = rows.add(index, variables[index].tensor, values, indices, who);
    if (!has_whole_blocks(job, table.row_size)) refuse_row_size(who(), table.row_size, variables[index].name);
    set_slot_sizes(table);
    fusedopt::require_apart(index, values, variables, ranges, owns(values));
    has_any_gradient = true;
    job.gradient = nullptr;
    job.strides = nullptr;
    job.work = kernel::Work::rows;
}

template <class IndexAt>
void Optimizer::State::assign_gradients(Gradients gradients, const IndexAt& index_at) {
    ++steps_begun;
    std::size_t assigned = 0;
    for (std::size_t position = 0; position < gradients.size(); ++position) {
        const std::size_t index = index_at(position);
        std::int64_t& last = last_step_with_gradient[index];
        if (last != steps_begun) {
            ++assigned;
        } else if (variables[index].tensor.size() > 0) {
            throw std::invalid_argument("apply: expected each variable once, found " + describe(index) + " twice");
        }
        last = steps_begun;
        assign_gradient(index, gradients.values(position), gradients.indices(position));
    }
    if (assigned == jobs.size()) return;
    const Tensor none;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        if (last_step_with_gradient[i] != steps_begun) assign_gradient(i, none, nullptr);
    }
}

template <class Chosen>
const SweepPlan& Optimizer::State::sweep_over(bool all, const Chosen& chosen) {
    if (all) return whole;
    selected.clear();
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        if (chosen(jobs[i])) selected.add(i, jobs[i].size);
    }
    return selected;
}

double Optimizer::State::averaging_factor(const Scaling& scaling) const {
    // Accumulated gradients are unscaled already and only need averaging.
    return accumulation_steps > 1 ? 1.0 / static_cast<double>(accumulation_steps) : scaling.unscale;
}

double Optimizer::State::sum_of_squares(std::size_t index) const {
    const kernel::Job& job = jobs[index];
    double sum = 0.0;
    if (ranks) return sums_over_ranks[index];
    if (job.work == kernel::Work::rows) return rows.sum_of_squares(index);
    if (!job.gradient) return sum;
    for (const double of_tile : tile_sums(index)) sum += of_tile;
    return sum;
}

bool Optimizer::State::measure(const Scaling& scaling) {
    if (!needs_norm(scaling) && !skips_overflow(scaling)) return true;
    const SweepPlan& plan = sweep_over(has_all_gradients(), [](const kernel::Job& job) { return job.gradient; });
    const auto measure_stretch = current_kernels().measure;
    std::atomic<bool> is_finite = true;
    plan.run_stretches(plan.threads(), jobs, [&](const kernel::Stretch& stretch) {
        if (!measure_stretch(scaling.unscale, stretch, sums_of_squares.data())) {
            is_finite.store(false, std::memory_order_relaxed);
        }
    });
    if (!rows.measure(scaling.unscale, jobs)) is_finite = false;
    return is_finite || !skips_overflow(scaling);
}

void Optimizer::State::set_factors(const Scaling& scaling, double rate) {
    const double factor = averaging_factor(scaling);
    if (options.clipnorm) {
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            if (!jobs[i].gradient && jobs[i].work != kernel::Work::rows) continue;
            jobs[i].clip_factor = clip_factor(factor * std::sqrt(sum_of_squares(i)), *options.clipnorm);
        }
    }
    double scale = factor * scaling.clip_factor;
    if (options.global_clipnorm) {
        double sum = 0.0;
        for (std::size_t i = 0; i < jobs.size(); ++i) sum += sum_of_squares(i);
        next_global_norm = factor * std::sqrt(sum);
        scale *= global_clip_factor(*next_global_norm, *options.global_clipnorm);
    }
    for (std::size_t k = 0; k < branches.size(); ++k) {
        common[k].scale = scale;
        common[k].keep = 1.0 - decay_of(branches[k]) * rate;
    }
}

void Optimizer::State::check(Gradients gradients, const Choice& choice) {
    require_room("apply: iteration", calls);
    require_latest("apply", choice.builds, builds);
    const std::size_t expected = choice.count(variables.size());
    if (gradients.size() != expected) {
        throw std::invalid_argument("apply: expected " + std::to_string(expected) +
                                    " gradients, one for each variable, found " + std::to_string(gradients.size()));
    }
    is_update = (calls + 1) % accumulation_steps == 0;
    has_any_gradient = false;
    sized_gradients = 0;
    rows.begin();
    if (const auto* tensors = std::get_if<Choice::Tensors>(&choice.by)) {
        assign_gradients(gradients, [&](std::size_t position) { return index_of(position, (*tensors)[position]); });
    } else if (const auto* indices = std::get_if<Choice::Indices>(&choice.by)) {
        assign_gradients(gradients,
                         [&](std::size_t position) { return checked_index(*indices, position, variables.size()); });
    } else {
        for (std::size_t i = 0; i < jobs.size(); ++i) assign_gradient(i, gradients.values(i), gradients.indices(i));
    }
    if (!has_any_gradient) {
        throw std::invalid_argument("apply: No gradients provided for any variable.");
    }
    rows.prepare();
}

void Optimizer::State::evaluate(const Scaling& scaling) {
    const std::int64_t iteration = iterations();
    for (kernel::Step& step : common) {
        step = {};
        step.unscale = scaling.unscale;
        step.clipvalue = options.clipvalue.value_or(std::numeric_limits<double>::infinity());
        step.ema_momentum = iteration == 0 ? 0.0 : options.ema_momentum;
        step.seed = seed_of(options, calls);
        step.overwrite = options.ema_overwrite_frequency && (iteration + 1) % *options.ema_overwrite_frequency == 0;
    }
    std::ranges::copy(numbers, next_numbers.begin());
    next_global_norm = global_norm;
    if (!is_update) return;
    // The caller's code runs before the floating-point state is set for ours.
    Now now{current_learning_rate(), iteration + 1, 0.0, 0.0, next_numbers};
    require_not_negative("learning_rate", now.learning_rate);
    const AnyDefinition& definition = definition_of(rule);
    const bool codes_slots = asks_for_codes(options);
    const Betas betas = definition.betas(rule);
    if (betas.beta_1) {
        now.beta_1 = (*betas.beta_1)(calls);
        now.beta_2 = (*betas.beta_2)(calls);
    }
    {
        const FloatEnvironment environment;
        for (std::size_t k = 0; k < common.size(); ++k) {
            common[k].scalars = branches[k].is_rowwise ? common[0].scalars : definition.scalars(rule, now, k);
            common[k].own = definition.own(rule);
            set_signs(branches[k], common[k]);
            if (codes_slots && !branches[k].is_rowwise) common[k].guard = definition.guard(rule, now, k);
        }
        set_factors(scaling, now.learning_rate);
    }
    if (procedure) procedure->evaluate(jobs, common);
}

void Optimizer::State::plan_sweep() {
    const auto has_kernel = [](const RuleSpec& branch) { return branch.kernel.has_value(); };
    const auto is_done = [&](const kernel::Job& job) {
        return job.work == kernel::Work::update && !has_kernel(branch_of(job));
    };
    const auto has_work = [](const kernel::Job& job) {
        return job.average || (job.work != kernel::Work::none && job.work != kernel::Work::rows);
    };
    swept_plan = &sweep_over(has_all_gradients() && std::ranges::all_of(branches, has_kernel),
                             [&](const kernel::Job& job) { return !is_done(job) && has_work(job); });
    swept = 0;
}

void Optimizer::State::sweep_until(std::size_t variable, std::int64_t element) {
    const SweepPlan::Part part{swept, swept_plan->before(variable, element)};
    swept = part.end;
    const kernel::Kernels& kernels = current_kernels();
    const std::int64_t elements = part.elements();
    const int threads = is_update && procedure ? procedure->sweep_threads(elements) : threads_for(elements);
    run_kinds(*swept_plan, threads, part, jobs, [&](const kernel::Job& job, const kernel::Stretch& stretch) {
        const bool updates = job.work == kernel::Work::update;
        const auto& functions =
            updates ? kernels.update[static_cast<std::size_t>(*branch_of(job).kernel)] : kernels.other_work;
        const kernel::SweepFunction function = functions[job.computes_in_double];
        if (updates && branch_of(job).is_rowwise) {
            sweep_by_rows(stretch, function);
        } else {
            function(common[job.branch], stretch);
        }
    });
}

/// Dense gradients of rows of which each is a job of its own.
void Optimizer::State::sweep_by_rows(const kernel::Stretch& stretch, kernel::SweepFunction update) const {
    for (const kernel::Job* job = stretch.first; job <= stretch.last; ++job) {
        const Table table = table_of(static_cast<std::size_t>(job - jobs.data()));
        const std::int64_t begin = job == stretch.first ? stretch.begin : 0;
        const std::int64_t end = job == stretch.last ? stretch.end : job->size;
        RowReader reader(table, *job, rows_before(table, begin), rows_before(table, end));
        while (!reader.is_at_end()) update(common[job->branch], reader.next().stretch());
    }
}

void Optimizer::State::sweep_rows() {
    const kernel::Kernels& kernels = current_kernels();
    const auto follows = [&](const Table& table) { return histories[table.variable].is_kept(); };
    for (const Table& table : rows.tables()) {
        if (follows(table)) histories[table.variable].begin_step();
    }
    rows.run(jobs, [&](const RowBatch& batch) {
        if (follows(batch.table)) {
            catch_up_rows(batch);
            for (const std::int64_t row : batch.rows) histories[batch.table.variable].mark(row);
        }
        const kernel::Job& table = jobs[batch.table.variable];
        const auto& functions = kernels.update[static_cast<std::size_t>(*branch_of(table).kernel)];
        functions[table.computes_in_double](common[table.branch], batch.stretch());
    });
    for (const Table& table : rows.tables()) {
        if (follows(table)) histories[table.variable].add(missed_in_step(jobs[table.variable]));
    }
}

void Optimizer::State::begin_commit() {
    if (!without_average.empty()) begin_averages();
    catch_up_before_step();
    if (is_update && procedure) {
        const auto is_updated = [](const kernel::Job& job) { return job.work == kernel::Work::update; };
        procedure->commit(jobs, common, sweep_over(has_all_gradients(), is_updated));
    }
    if (!rows.empty()) sweep_rows();  // before the averages, which take in what it makes of them
    plan_sweep();
}

void Optimizer::State::commit() {
    begin_commit();
    end_commit();
}

void Optimizer::State::end_commit() {
    sweep_until(jobs.size(), 0);
    std::ranges::copy(next_numbers, numbers.begin());
    global_norm = next_global_norm;
    ++calls;
}

bool Optimizer::State::step(Gradients gradients, const Choice& choice, const Scaling& scaling) {
    Ranks* const own = ranks_for("apply");
    if (!own) return step_own(gradients, choice, scaling);
    const auto check_built = [this](Facts&) { require_built("apply"); };
    if (!own->sum(gradients, choice, builds, scaling, check_built)) return true;
    return step_own(own->sums(), own->choice(), scaling);
}

bool Optimizer::State::step_own(Gradients gradients, const Choice& choice, const Scaling& scaling) {
    if (gradients.empty() && choice.count(0) == 0) return true;
    require_built("apply");
    const Participant participant{this, gradients, choice, scaling};
    JointStep step({&participant, 1}, ranks.get());
    if (!step.prepare()) {
        if (!scaling.skips_overflow) ++skipped_steps;
        return false;
    }
    step.finish();
    return true;
}

void Optimizer::State::finalize(std::span<const Tensor> tensors) {
    constexpr const char* function = "finalize_variable_values";
    const auto check = [&] {
        require_built(function);
        require_not_stepping(function);
        require_training_weights(function);
        require_variables(function, tensors, built_variables());
    };
    const auto write = [this] {
        write_averages();
        return options.use_ema;
    };
    Ranks::together(ranks_for(function), function, check, write);
}

void Optimizer::State::write_averages() {
    catch_up_all();
    if (!options.use_ema) return;
    begin_averages();
    for (kernel::Job& job : jobs) {
        job.gradient = nullptr;
        job.work = kernel::Work::restore;
    }
    const kernel::Kernels& kernels = current_kernels();
    const SweepPlan& plan = sweep_over(options.master, [](const kernel::Job& job) { return job.weight != nullptr; });
    run_kinds(plan, plan.threads(), jobs, [&](const kernel::Job& job, const kernel::Stretch& stretch) {
        kernels.other_work[job.computes_in_double]({}, stretch);
    });
    std::vector<float> held;
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        if (!jobs[i].weight) restore_without_master(i, held);
    }
}

/// With a master copy for this purpose, so that the average is rounded to the nearest, as for an evaluation.
void Optimizer::State::restore_without_master(std::size_t index, std::vector<float>& held) {
    held.assign(static_cast<std::size_t>(jobs[index].size), 0.0f);
    kernel::Job job = jobs[index];
    job.weight = held.data();
    selected.clear();
    selected.add(index, job.size);
    selected.run([&](std::size_t, std::int64_t begin, std::int64_t end) {
        current_kernels().other_work[false]({}, {&job, &job, begin, end});
    });
}

}  // namespace fusedopt
