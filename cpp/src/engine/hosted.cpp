// A step on a host's state: every check, then the sums of squares if a norm or an overflow check is on, then the
// scalars of each group and count, then one sweep.
// One file, though long: its phases are read from top to bottom, in the order in which they run.
#include "engine/hosted.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <stdexcept>
#include <string>

#include <fusedopt/runtime.hpp>

#include "engine/check.hpp"
#include "engine/state.hpp"
#include "engine/stepping.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

enum What : std::int32_t { of_gradient = -4, of_variable = -3, of_average = -2, of_master = -1, of_slots = 0 };

std::string what_name(std::int32_t what, const RuleSpec& spec) {
    switch (what) {
        case of_gradient:
            return "gradient";
        case of_variable:
            return "variable";
        case of_average:
            return "average";
        case of_master:
            return "master copy";
        default:
            return spec.slots[static_cast<std::size_t>(what)].name;
    }
}

/// Checks tensors of one variable.
struct Checks {
    const HostedVariable& variable;
    const RuleSpec& spec;
    std::size_t group, index;

    [[noreturn]] void refuse(std::int32_t what, const std::string& text) const {
        const std::string name = what == of_variable ? "" : ": " + what_name(what, spec);
        throw std::invalid_argument(parameter_name(group, index) + name + ": " + text);
    }

    void require_floating(std::int32_t what, const Tensor& tensor) const {
        if (is_floating(tensor.dtype())) return;
        refuse(what, "expected float16, bfloat16, float32 or float64, found " + std::string(to_string(tensor.dtype())));
    }

    void require_shape(std::int32_t what, const Tensor& tensor) const {
        if (same_shape(tensor, variable.variable)) return;
        refuse(what, "expected shape " + to_string(variable.variable.shape()) + ", found " + to_string(tensor.shape()));
    }

    void require_in_place(std::int32_t what, const Tensor& tensor) const {
        if (!tensor.is_writable()) refuse(what, "expected writable memory, found a read-only array");
        if (tensor.is_aligned()) return;
        refuse(what, "expected memory aligned to its element size, found it misaligned; give a copy");
    }

    void require_state(std::int32_t what, const Tensor& tensor, DType dtype, const MemoryOrder& order) const {
        if (!tensor) refuse(what, "expected an array, found none");
        require_shape(what, tensor);
        if (tensor.dtype() != dtype) {
            refuse(what,
                   "expected " + std::string(to_string(dtype)) + ", found " + std::string(to_string(tensor.dtype())));
        }
        require_in_place(what, tensor);
        if (order.is_order_of(tensor)) return;
        refuse(what,
               "expected its elements in memory in the same order as the variable's, found another order; "
               "give a copy in the variable's layout");
    }
};

}  // namespace

HostedStep::HostedStep() {
    read_environment();
    state_ = std::make_unique<State>();
}
HostedStep::HostedStep(HostedStep&&) noexcept = default;
HostedStep& HostedStep::operator=(HostedStep&&) noexcept = default;
HostedStep::~HostedStep() = default;

HostedResult HostedStep::run(std::span<const HostedGroup> groups, const HostedOptions& options) {
    return state_->run(groups, options);
}

HostedResult HostedStep::State::run(std::span<const HostedGroup> groups, const HostedOptions& options) {
    check(groups, options);
    if (!measure(options)) return {false, norm_};
    evaluate(groups, options);
    commit();
    for (const Product& product : products_) *product.place = kinds_[product.kind].product;
    return {true, norm_};
}

void HostedStep::State::check(std::span<const HostedGroup> groups, const HostedOptions& options) {
    require_positive("unscale", options.unscale);
    if (options.clipnorm) require_positive("clipnorm", *options.clipnorm);
    if (options.max_norm && !(*options.max_norm >= 0.0)) refuse("max_norm", "a number >= 0", *options.max_norm);
    if (rules_.size() < groups.size()) rules_.resize(groups.size());
    specs_.clear();
    jobs_.clear();
    kinds_.clear();
    plan_.clear();
    updated_.clear();
    rows_.begin();
    tiles_ = row_tiles_ = 0;
    memory_.begin();
    products_.clear();
    std::size_t dimensions = 0;
    for (const HostedGroup& group : groups) {
        for (const HostedVariable& variable : group.variables) dimensions += variable.gradient.rank();
    }
    extents_.clear();
    extents_.reserve(2 * dimensions);  // jobs point into it
    for (std::size_t k = 0; k < groups.size(); ++k) {
        check_group(groups[k]);
        for (std::size_t i = 0; i < groups[k].variables.size(); ++i) add(groups[k].variables[i], k, i);
    }
    rows_.prepare();
    const HostedMemory::Overlap overlap = memory_.find_overlap();
    if (!overlap.one) return;
    const auto text = [&](const HostedMemory::Part& part) {
        return what_name(part.what, *specs_[part.group]) + " of " + parameter_name(part.group, part.index);
    };
    throw std::invalid_argument(text(*overlap.one) + ": expected memory of its own, found it overlapping the " +
                                text(*overlap.other));
}

void HostedStep::State::check_group(const HostedGroup& group) {
    const std::size_t k = specs_.size();
    const RuleSpec& spec = rules_[k].spec_of(group.rule, k);
    specs_.push_back(&spec);
    sorted_kinds_.clear();
    try {
        require_not_negative("learning_rate", group.learning_rate);
        require("ema_momentum", group.ema_momentum, domains::from_0_to_1);
        if (!group.weight_decay) return;
        require_not_negative("weight_decay", *group.weight_decay);
        if (!spec.weight_decay) return;
        throw std::invalid_argument("weight_decay: expected in the rule or in the group, found in both");
    } catch (const std::invalid_argument& error) {
        throw std::invalid_argument(group_name(k) + ": " + error.what());
    }
}

// Kinds are few, and variables of one kind mostly follow each other.
std::size_t HostedStep::State::kind_of(std::size_t group, const HostedVariable& variable) {
    Kind wanted{group, variable.gradient ? variable.step : 0, 0.0, DType::float64};
    if (variable.gradient && !specs_[group]->numbers.empty()) {
        wanted.product = variable.product;
        wanted.product_dtype = variable.product_dtype;
    }
    const auto is_wanted = [&](const Kind& kind) {
        return kind.group == group && kind.step == wanted.step && kind.product == wanted.product &&
               kind.product_dtype == wanted.product_dtype;
    };
    if (!kinds_.empty() && is_wanted(kinds_.back())) return kinds_.size() - 1;
    const auto before = [&](std::size_t k, const Kind& kind) {
        const Kind& known = kinds_[k];
        if (known.step != kind.step) return known.step < kind.step;
        if (known.product != kind.product) return known.product < kind.product;
        return known.product_dtype < kind.product_dtype;
    };
    const auto place = std::lower_bound(sorted_kinds_.begin(), sorted_kinds_.end(), wanted, before);
    if (place != sorted_kinds_.end() && is_wanted(kinds_[*place])) return *place;
    if (kinds_.size() > std::numeric_limits<decltype(kernel::Job::branch)>::max()) {
        throw std::invalid_argument(
            "hosted step: expected at most 65536 different groups and counts of updates together, found more; give "
            "fewer variables at once");
    }
    sorted_kinds_.insert(place, kinds_.size());
    kinds_.push_back(wanted);
    return kinds_.size() - 1;
}

void HostedStep::State::add(HostedVariable& variable, std::size_t group, std::size_t index) {
    const Tensor& tensor = variable.variable;
    const RuleSpec& spec = *specs_[group];
    const Checks checks{variable, spec, group, index};
    if (variable.indices && !variable.gradient) {
        checks.refuse(of_gradient, "expected values with the indices, found none");
    }
    if (!variable.gradient && !variable.average) return;
    if (!tensor) checks.refuse(of_variable, "expected an array, found none");
    checks.require_floating(of_variable, tensor);
    checks.require_in_place(of_variable, tensor);
    if (!order_.set(tensor)) {
        checks.refuse(of_variable,
                      "expected memory that its elements fill without gaps, in any order of dimensions, "
                      "found strides that leave gaps or repeat elements; give a contiguous copy");
    }
    const bool is_narrow = item_size(tensor.dtype()) == 2;
    const DType dtype = tensor.dtype() == DType::float64 ? DType::float64 : DType::float32;
    kernel::Job job{};
    job.size = tensor.size();
    job.clip_factor = 1.0;
    job.storage_element = element_of(tensor.dtype());
    job.computes_in_double = dtype == DType::float64;
    job.decays = true;
    job.work = variable.gradient ? kernel::Work::update : kernel::Work::none;
    (is_narrow ? job.storage : job.weight) = tensor.data();
    const auto part = [&](std::int32_t what) {
        return HostedMemory::Part{static_cast<std::uint32_t>(group), static_cast<std::uint32_t>(index), what};
    };
    const auto take = [&](std::int32_t what, const Tensor& state) {
        checks.require_state(what, state, dtype, order_);
        if (job.size > 0) memory_.add_written(state, part(what));
        return state.data();
    };
    if (job.size > 0) memory_.add_written(tensor, part(of_variable));
    if (variable.master && !is_narrow) {
        checks.refuse(of_master,
                      "expected none of a variable of " + std::string(to_string(tensor.dtype())) + ", found one");
    }
    if (variable.master) job.weight = take(of_master, variable.master);
    if (variable.average) job.average = take(of_average, variable.average);
    if (variable.gradient) {
        for (std::size_t k = 0; k < variable.slots.size(); ++k) {
            if (k < spec.slots.size()) {
                job.slots[k] = take(static_cast<std::int32_t>(k), variable.slots[k]);
            } else if (variable.slots[k]) {
                throw std::invalid_argument(parameter_name(group, index) + ": expected " +
                                            std::to_string(spec.slots.size()) + " slots, found more");
            }
        }
        if (variable.step < 1 || variable.step > largest_count) {
            checks.refuse(of_variable, "step: expected the number of an update, from 1 to 2^53, found " +
                                           std::to_string(variable.step));
        }
        if (variable.indices) {
            set_rows(job, variable, group, index);
        } else {
            checks.require_floating(of_gradient, variable.gradient);
            checks.require_shape(of_gradient, variable.gradient);
            set_gradient(job, variable.gradient);
        }
        if (variable.gradient.size() > 0) memory_.add_read(variable.gradient, part(of_gradient));
    }
    const std::size_t kind = kind_of(group, variable);
    job.branch = static_cast<std::uint16_t>(kind);
    if (variable.gradient && !spec.numbers.empty()) products_.push_back({&variable.product, kind});
    if (job.size == 0) return;
    if (job.work != kernel::Work::rows) {
        job.first_partial = tiles_;
        tiles_ += tile_count(job);
    }
    if (job.gradient) updated_.add(jobs_.size(), job.size);
    if (job.gradient || job.average) plan_.add(jobs_.size(), job.size);
    jobs_.push_back(job);
}

void HostedStep::State::set_rows(kernel::Job& job, const HostedVariable& variable, std::size_t group,
                                 std::size_t index) {
    const auto who = [&] { return parameter_name(group, index) + ": gradient"; };
    if (!order_.is_plain()) {
        throw std::invalid_argument(who() +
                                    ": expected a dense one, as the variable is not C-contiguous, found one of "
                                    "rows; give a contiguous variable");
    }
    rows_.add(jobs_.size(), variable.variable, variable.gradient, variable.indices, who);
    job.work = kernel::Work::rows;
    // Far from the numbers of all other tiles.
    job.first_partial = (std::size_t{1} << (std::numeric_limits<std::size_t>::digits - 2)) + row_tiles_;
    if (job.size > 0) {
        const std::int64_t row_size = job.size / variable.variable.shape()[0];
        row_tiles_ +=
            static_cast<std::size_t>((row_size + kernel::tile - 1) / kernel::tile * variable.variable.shape()[0]);
    }
}

void HostedStep::State::set_gradient(kernel::Job& job, const Tensor& gradient) {
    job.gradient = gradient.data();
    job.gradient_element = element_of(gradient.dtype());
    if (gradient.is_aligned() && order_.is_order_of(gradient)) return;
    const std::size_t begin = extents_.size();
    extents_.resize(begin + 2 * gradient.rank());
    const std::size_t rank = order_.copy(gradient, extents_.data() + begin);
    job.shape = extents_.data() + begin;
    job.strides = job.shape + rank;
    job.rank = static_cast<std::uint8_t>(rank);
}

bool HostedStep::State::measure(const HostedOptions& options) {
    norm_.reset();
    const bool needs_norm = options.max_norm || options.clipnorm;
    if (!needs_norm && !options.skip_nonfinite) return true;
    if (sums_of_squares_.size() < tiles_) sums_of_squares_.resize(tiles_);
    const auto measure_stretch = current_kernels().measure;
    std::atomic<bool> is_finite = true;
    updated_.run_stretches(updated_.threads(), jobs_, [&](const kernel::Stretch& stretch) {
        if (!measure_stretch(options.unscale, stretch, sums_of_squares_.data())) {
            is_finite.store(false, std::memory_order_relaxed);
        }
    });
    if (!rows_.measure(options.unscale, jobs_)) is_finite = false;
    if (needs_norm) {
        const FloatEnvironment environment;
        double sum = 0.0;
        for (std::size_t i = 0; i < jobs_.size(); ++i) {
            kernel::Job& job = jobs_[i];
            if (!job.gradient && job.work != kernel::Work::rows) continue;
            const double of_job = sum_of_squares(i);
            if (options.clipnorm) {
                job.clip_factor = clip_factor(options.unscale * std::sqrt(of_job), *options.clipnorm);
            }
            sum += of_job;
        }
        norm_ = options.unscale * std::sqrt(sum);
    }
    return is_finite || !options.skip_nonfinite;
}

double HostedStep::State::sum_of_squares(std::size_t i) const {
    const kernel::Job& job = jobs_[i];
    if (job.work == kernel::Work::rows) return rows_.sum_of_squares(i);
    double sum = 0.0;
    for (std::size_t k = 0; k < tile_count(job); ++k) sum += sums_of_squares_[job.first_partial + k];
    return sum;
}

void HostedStep::State::evaluate(std::span<const HostedGroup> groups, const HostedOptions& options) {
    const FloatEnvironment environment;
    double scale = options.unscale;
    if (options.max_norm) {
        // As torch.nn.utils.clip_grad_norm_ has it. A NaN stays NaN.
        const double factor = *options.max_norm / (*norm_ + 1e-6);
        scale *= factor > 1.0 ? 1.0 : factor;
    }
    steps_.resize(kinds_.size());
    for (std::size_t k = 0; k < kinds_.size(); ++k) {
        Kind& kind = kinds_[k];
        const HostedGroup& group = groups[kind.group];
        const RuleSpec& spec = *specs_[kind.group];
        kernel::Step& step = steps_[k] = {};
        step.keep = 1.0 - group.weight_decay.value_or(spec.weight_decay.value_or(0.0)) * group.learning_rate;
        step.unscale = options.unscale;
        step.scale = group.maximize ? -scale : scale;
        step.clipvalue = std::numeric_limits<double>::infinity();
        step.ema_momentum = group.ema_momentum;
        step.seed = options.seed;
        if (kind.step == 0) continue;
        const AnyDefinition& definition = definition_of(group.rule);
        const Betas betas = definition.betas(group.rule);
        const std::span<double> numbers(&kind.product, spec.numbers.size());
        const Now now{group.learning_rate,
                      kind.step,
                      betas.beta_1 ? betas.beta_1->value() : 0.0,
                      betas.beta_2 ? betas.beta_2->value() : 0.0,
                      numbers,
                      kind.product_dtype};
        step.scalars = definition.scalars(group.rule, now, 0);
        step.own = definition.own(group.rule);
    }
}

void HostedStep::State::commit() {
    const kernel::Kernels& kernels = current_kernels();
    rows_.run(jobs_, [&](const RowBatch& batch) {
        const kernel::Job& table = jobs_[batch.table.variable];
        const RuleSpec& spec = *specs_[kinds_[table.branch].group];
        const auto& functions = kernels.update[static_cast<std::size_t>(*spec.kernel)];
        functions[table.computes_in_double](steps_[table.branch], batch.stretch());
    });
    run_kinds(plan_, plan_.threads(), jobs_, [&](const kernel::Job& job, const kernel::Stretch& stretch) {
        const RuleSpec& spec = *specs_[kinds_[job.branch].group];
        const auto& functions = job.work == kernel::Work::update
                                    ? kernels.update[static_cast<std::size_t>(*spec.kernel)]
                                    : kernels.other_work;
        functions[job.computes_in_double](steps_[job.branch], stretch);
    });
}

}  // namespace fusedopt
