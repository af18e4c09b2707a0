// One step: check everything, measure if a norm or an overflow check is on, fold all factors into one scale and one
// keep a variable, hand out tiles. Nothing is written before the last check has passed.
// One file, though long: its phases are read from top to bottom, in the order in which they run.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>

#include "check.hpp"
#include "float_environment.hpp"
#include "levels.hpp"
#include "state.hpp"
#include "stepping.hpp"

namespace fusedopt {
namespace {

struct Bounds {
    const std::byte* low;
    const std::byte* high;
};

Bounds bounds_of(const Tensor& tensor) {
    const auto* low = static_cast<const std::byte*>(tensor.data());
    const std::byte* high = low + item_size(tensor.dtype());
    for (std::size_t d = 0; d < tensor.rank(); ++d) {
        const std::int64_t reach = tensor.strides()[d] * (tensor.shape()[d] - 1);
        (reach < 0 ? low : high) += reach;
    }
    return {low, high};
}

static_assert(most_dimensions == kernel::most_dimensions);

// Of a few numbers, for which a call of memcmp takes longer than the loop.
bool has_shape(const Tensor& tensor, const Tensor& other) {
    if (tensor.rank() != other.rank()) return false;
    const std::int64_t *a = tensor.shape().data(), *b = other.shape().data();
    for (std::size_t d = 0; d < tensor.rank(); ++d) {
        if (a[d] != b[d]) return false;
    }
    return true;
}

// True for the very memory that was checked in an earlier step.
bool is_checked(const Variable& variable, const Tensor& gradient) {
    return gradient.data() == variable.checked_gradient && gradient.dtype() == variable.checked_dtype &&
           gradient.is_contiguous() && has_shape(gradient, variable.tensor);
}

// Calls sweep(job, stretch) for each part of a stretch whose jobs take the same kernel; `job` stands for all.
template <class Sweep>
void for_each_kind(const kernel::Stretch& whole, const Sweep& sweep) {
    const auto is_same = [](const kernel::Job& a, const kernel::Job& b) {
        return a.work == b.work && a.branch == b.branch && a.computes_in_double == b.computes_in_double;
    };
    for (const kernel::Job *first = whole.first, *last; first <= whole.last; first = last + 1) {
        for (last = first; last < whole.last && is_same(*first, last[1]);) ++last;
        sweep(*first, kernel::Stretch{first, last, first == whole.first ? whole.begin : 0,
                                      last == whole.last ? whole.end : last->size});
    }
}

// An infinite norm zeroes what is finite; a NaN stays NaN.
double clip_factor(double norm, double limit) {
    return norm <= limit ? 1.0 : limit / norm;
}

}  // namespace

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
    if (gradient.size() == 0) return unknown;
    const Bounds bounds = bounds_of(gradient);
    // The first range that ends after the gradient begins; ranges do not overlap, so ends are sorted too.
    for (auto range = std::ranges::upper_bound(ranges, bounds.low, {}, &Range::end);
         range != ranges.end() && range->begin < bounds.high; ++range) {
        if (gradient.touches(range->begin, range->end)) return range->index;
    }
    return unknown;
}

bool Optimizer::State::owns(const Tensor& gradient) const {
    const Bounds bounds = bounds_of(gradient);
    return gradient.size() > 0 &&
           std::ranges::any_of(arenas, [&](const Arena& arena) { return arena.contains(bounds.low, bounds.high); });
}

void Optimizer::State::check_gradient(std::size_t index, const Tensor& gradient) {
    Variable& variable = variables[index];
    const auto who = [&] { return "gradient of " + describe(index); };
    if (!has_shape(gradient, variable.tensor)) {
        throw std::invalid_argument(who() + ": expected shape " + to_string(variable.tensor.shape()) + ", found " +
                                    to_string(gradient.shape()));
    }
    if (gradient.dtype() == DType::int64) {
        throw std::invalid_argument(who() + ": expected float16, bfloat16, float32 or float64, found int64");
    }
    if (const std::size_t overlapped = overlapped_by(gradient); overlapped != unknown) {
        throw std::invalid_argument(who() + ": expected memory apart from the variables, found it overlapping " +
                                    describe(overlapped));
    }
    if (owns(gradient)) {
        throw std::invalid_argument(who() + ": expected memory apart from the optimizer's state, found it overlapping");
    }
    if (gradient.is_contiguous()) {
        variable.checked_gradient = gradient.data();
        variable.checked_dtype = gradient.dtype();
    }
}

void Optimizer::State::assign_gradient(std::size_t index, const Tensor& gradient) {
    kernel::Job& job = jobs[index];
    if (!gradient) {
        job.gradient = nullptr;
        job.work = is_update && job.accumulator ? kernel::Work::discard : kernel::Work::none;
        return;
    }
    if (!is_checked(variables[index], gradient)) check_gradient(index, gradient);
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

void Optimizer::State::assign_gradients(std::span<const Tensor> gradients, std::span<const Tensor> tensors) {
    for (std::size_t i = 0; i < jobs.size(); ++i) assign_gradient(i, {});
    ++steps_begun;
    for (std::size_t position = 0; position < gradients.size(); ++position) {
        const std::size_t index = index_of(position, tensors[position]);
        std::int64_t& last = last_step_with_gradient[index];
        if (last == steps_begun && variables[index].tensor.size() > 0) {
            throw std::invalid_argument("apply: expected each variable once, found " + describe(index) + " twice");
        }
        last = steps_begun;
        if (gradients[position]) assign_gradient(index, gradients[position]);
    }
}

bool Optimizer::State::has_trust_ratio() const {
    const auto& kernel = branches[0].kernel;
    return kernel && current_kernels().advance[static_cast<std::size_t>(*kernel)][0];
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
    if (!job.gradient) return sum;
    for (std::size_t k = 0; k < tile_count(job); ++k) sum += sums_of_squares[job.first_partial + k];
    return sum;
}

bool Optimizer::State::measure(const Scaling& scaling) {
    const bool needs_norm = is_update && (options.clipnorm || options.global_clipnorm || scaling.needs_norm);
    const bool skips_overflow = scaling.skips_overflow || options.skip_nonfinite;
    if (!needs_norm && !skips_overflow) return true;
    const SweepPlan& plan = sweep_over(has_all_gradients(), [](const kernel::Job& job) { return job.gradient; });
    const auto measure_stretch = current_kernels().measure;
    std::atomic<bool> is_finite = true;
    plan.run_stretches([&](std::size_t first, std::size_t last, std::int64_t begin, std::int64_t end) {
        const kernel::Stretch stretch{&jobs[first], &jobs[last], begin, end};
        if (!measure_stretch(scaling.unscale, stretch, sums_of_squares.data())) {
            is_finite.store(false, std::memory_order_relaxed);
        }
    });
    return is_finite || !skips_overflow;
}

void Optimizer::State::set_factors(const Scaling& scaling, double rate) {
    const double factor = averaging_factor(scaling);
    if (options.clipnorm) {
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            if (!jobs[i].gradient) continue;
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

void Optimizer::State::set_trust_ratios() {
    const FloatEnvironment environment;
    for (kernel::Job& job : jobs) {
        if (job.work != kernel::Work::update) continue;
        double weight = 0.0, direction = 0.0;
        for (std::size_t k = 0; k < tile_count(job); ++k) {
            weight += trust_partials[job.first_partial + k].weight;
            direction += trust_partials[job.first_partial + k].direction;
        }
        job.ratio = weight > 0.0 && direction > 0.0 ? std::sqrt(weight) / std::sqrt(direction) : 1.0;
    }
}

void Optimizer::State::check(std::span<const Tensor> gradients, const std::span<const Tensor>* tensors) {
    require_room("apply: iteration", calls);
    const std::size_t expected = tensors ? tensors->size() : variables.size();
    if (gradients.size() != expected) {
        throw std::invalid_argument("apply: expected " + std::to_string(expected) +
                                    " gradients, one for each variable, found " + std::to_string(gradients.size()));
    }
    is_update = (calls + 1) % accumulation_steps == 0;
    has_any_gradient = false;
    sized_gradients = 0;
    if (tensors) {
        assign_gradients(gradients, *tensors);
    } else {
        for (std::size_t i = 0; i < jobs.size(); ++i) assign_gradient(i, gradients[i]);
    }
    if (!has_any_gradient) {
        throw std::invalid_argument("apply: No gradients provided for any variable.");
    }
}

void Optimizer::State::evaluate(const Scaling& scaling) {
    const std::int64_t iteration = iterations();
    for (kernel::Step& step : common) {
        step = {};
        step.unscale = scaling.unscale;
        step.clipvalue = options.clipvalue.value_or(std::numeric_limits<double>::infinity());
        step.ema_momentum = iteration == 0 ? 0.0 : options.ema_momentum;
        step.overwrite = options.ema_overwrite_frequency && (iteration + 1) % *options.ema_overwrite_frequency == 0;
    }
    next_product = product;
    next_global_norm = global_norm;
    if (!is_update) return;
    // The caller's code runs before the floating-point state is set for ours.
    Moment moment{current_learning_rate(), calls, iteration + 1, 0.0, 0.0, &next_product};
    require_not_negative("learning_rate", moment.learning_rate);
    std::visit(
        [&](const auto& r) {
            if constexpr (requires { r.beta_1; }) {
                moment.beta_1 = r.beta_1(calls);
                moment.beta_2 = r.beta_2(calls);
            }
            const FloatEnvironment environment;
            for (std::size_t k = 0; k < common.size(); ++k) compute_scalars(r, moment, k, common[k].scalars);
            set_factors(scaling, moment.learning_rate);
        },
        rule);
    if (procedure) procedure->evaluate(jobs, common);
}

void Optimizer::State::commit() {
    if (!without_average.empty()) begin_averages();
    if (is_update && procedure) procedure->commit(jobs, common);
    const bool all_have_kernels = std::ranges::all_of(branches, [](const auto& b) { return b.kernel.has_value(); });
    const SweepPlan& plan = sweep_over(has_all_gradients() && all_have_kernels, [&](const kernel::Job& job) {
        const bool is_done = job.work == kernel::Work::update && !branch_of(job).kernel;
        return !is_done && (job.work != kernel::Work::none || job.average);
    });
    const kernel::Kernels& kernels = current_kernels();
    const auto rule_of = [&](const kernel::Job& job) { return static_cast<std::size_t>(*branch_of(job).kernel); };
    if (is_update && has_trust_ratio()) {
        plan.run_stretches([&](std::size_t first, std::size_t last, std::int64_t begin, std::int64_t end) {
            for_each_kind({&jobs[first], &jobs[last], begin, end}, [&](const kernel::Job& job, const auto& stretch) {
                if (job.work != kernel::Work::update) return;
                const auto advance = kernels.advance[rule_of(job)][job.computes_in_double];
                advance(common[job.branch], stretch, trust_partials.data());
            });
        });
        set_trust_ratios();
    }
    const int threads =
        is_update && procedure ? procedure->sweep_threads(plan.elements()) : threads_for(plan.elements());
    plan.run_stretches(threads, [&](std::size_t first, std::size_t last, std::int64_t begin, std::int64_t end) {
        for_each_kind({&jobs[first], &jobs[last], begin, end}, [&](const kernel::Job& job, const auto& stretch) {
            const auto& functions = job.work == kernel::Work::update ? kernels.update[rule_of(job)] : kernels.hold;
            functions[job.computes_in_double](common[job.branch], stretch);
        });
    });
    product = next_product;
    global_norm = next_global_norm;
    ++calls;
}

bool Optimizer::State::step(std::span<const Tensor> gradients, const std::span<const Tensor>* tensors,
                            const Scaling& scaling) {
    if (gradients.empty() && (!tensors || tensors->empty())) return true;
    require_built("apply");
    const Share share{this, gradients, tensors, scaling};
    JointStep step({&share, 1});
    if (!step.prepare()) {
        if (!scaling.skips_overflow) ++skipped_steps;
        return false;
    }
    step.finish();
    return true;
}

void Optimizer::State::check_finalized(std::span<const Tensor> tensors) const {
    require_built("finalize_variable_values");
    require_not_stepping("finalize_variable_values");
    if (tensors.size() != variables.size()) {
        throw std::invalid_argument("finalize_variable_values: expected " + std::to_string(variables.size()) +
                                    " variables, found " + std::to_string(tensors.size()));
    }
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        if (variables[i].tensor.size() > 0 && (!tensors[i] || find(tensors[i]) != i)) {
            throw std::invalid_argument(
                "finalize_variable_values: expected the built variables in their order, found "
                "another array in the place of " +
                describe(i));
        }
    }
}

void Optimizer::State::finalize(std::span<const Tensor> tensors) {
    check_finalized(tensors);
    if (!options.use_ema) return;
    begin_averages();
    for (kernel::Job& job : jobs) {
        job.gradient = nullptr;
        job.work = kernel::Work::restore;
    }
    const kernel::Kernels& kernels = current_kernels();
    whole.run_stretches([&](std::size_t first, std::size_t last, std::int64_t begin, std::int64_t end) {
        for_each_kind({&jobs[first], &jobs[last], begin, end}, [&](const kernel::Job& job, const auto& stretch) {
            kernels.hold[job.computes_in_double]({}, stretch);
        });
    });
}

}  // namespace fusedopt
