#include "state.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <utility>

#include "check.hpp"

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

std::string to_string(std::span<const std::int64_t> shape) {
    std::string text = "(";
    for (std::size_t d = 0; d < shape.size(); ++d) text += (d ? ", " : "") + std::to_string(shape[d]);
    return text + (shape.size() == 1 ? ",)" : ")");
}

namespace {

bool same_shape(const Tensor& a, const Tensor& b) {
    return std::ranges::equal(a.shape(), b.shape());
}

void check_options(const Options& options) {
    const auto check = [](const char* name, const std::optional<double>& value, auto require) {
        if (value) require(name, *value);
    };
    check("weight_decay", options.weight_decay, require_not_negative);
    check("clipnorm", options.clipnorm, require_positive);
    check("clipvalue", options.clipvalue, require_positive);
    check("global_clipnorm", options.global_clipnorm, require_positive);
    check("loss_scale_factor", options.loss_scale_factor, require_positive);
    if (options.clipnorm.has_value() + options.clipvalue.has_value() + options.global_clipnorm.has_value() > 1) {
        throw std::invalid_argument(
            "clipnorm, clipvalue, global_clipnorm: expected at most one of them, found several");
    }
    require_at_most_one("ema_momentum", options.ema_momentum);
    if (options.ema_overwrite_frequency) require_count("ema_overwrite_frequency", *options.ema_overwrite_frequency, 1);
    if (options.gradient_accumulation_steps) {
        require_count("gradient_accumulation_steps", *options.gradient_accumulation_steps, 2);
    }
}

}  // namespace

Optimizer::State::State(Rule rule_, Options options_)
    : rule(std::move(rule_)),
      spec(std::visit([](const auto& r) { return specify(r); }, rule)),
      options(std::move(options_)),
      weight_decay(options.weight_decay.value_or(spec.weight_decay)),
      loss_scale_factor(options.loss_scale_factor.value_or(1.0)),
      accumulation_steps(options.gradient_accumulation_steps.value_or(1)),
      learning_rate(options.learning_rate.value_or(spec.learning_rate)) {
    check_options(options);
    if (options.weight_decay && spec.weight_decay > 0.0) {
        throw std::invalid_argument("weight_decay: expected in the rule or in the options, found in both");
    }
    if (learning_rate.is_number()) {
        require_not_negative("learning_rate", learning_rate.value());
        learning_rate_value = learning_rate.value();
    }
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
        throw std::invalid_argument(std::string(function) + ": called by a learning rate or beta of its own step");
    }
}

double Optimizer::State::current_learning_rate() const {
    return learning_rate.is_number() ? learning_rate_value : learning_rate(calls);
}

void Optimizer::State::build(std::span<const Tensor> tensors, std::span<const std::string> names) {
    if (is_built) throw std::invalid_argument("build: the optimizer is built already");
    if (!names.empty() && names.size() != tensors.size()) {
        throw std::invalid_argument("build: expected a name for each of " + std::to_string(tensors.size()) +
                                    " variables, found " + std::to_string(names.size()));
    }
    std::vector<Variable> new_variables;
    std::vector<Range> new_ranges;
    std::size_t partial_count = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Tensor& tensor = tensors[i];
        const std::string name = names.empty() ? std::to_string(i) : names[i];
        const std::string who = "variable " + std::to_string(i) + (names.empty() ? "" : " ('" + name + "')");
        if (!tensor) throw std::invalid_argument(who + ": expected an array, found none");
        if (tensor.dtype() == DType::int64) {
            throw std::invalid_argument(who + ": expected float16, bfloat16, float32 or float64, found int64");
        }
        if (!tensor.is_writable()) {
            throw std::invalid_argument(who +
                                        ": expected writable memory, found a read-only array; pass a writable copy");
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
        new_variables.push_back({name, tensor, true, partial_count, nullptr, DType::float32});
        partial_count += static_cast<std::size_t>((tensor.size() + kernel::tile - 1) / kernel::tile);
        const auto* begin = static_cast<const std::byte*>(tensor.data());
        if (tensor.size() > 0) new_ranges.push_back({begin, begin + tensor.size_bytes(), i});
    }
    std::ranges::sort(new_ranges, {}, &Range::begin);
    for (std::size_t k = 1; k < new_ranges.size(); ++k) {
        if (new_ranges[k].begin < new_ranges[k - 1].end) {
            const auto [first, second] = std::minmax(new_ranges[k - 1].index, new_ranges[k].index);
            throw std::invalid_argument("variable " + std::to_string(second) + " ('" + new_variables[second].name +
                                        "'): expected memory of its own, found it overlapping variable " +
                                        std::to_string(first) + " ('" + new_variables[first].name + "')");
        }
    }
    for (const Tensor& tensor : excluded) {
        const auto same = [&](const Variable& v) {
            return v.tensor.data() == tensor.data() && v.tensor.size_bytes() == tensor.size_bytes();
        };
        const auto found = std::ranges::find_if(new_variables, same);
        if (found == new_variables.end()) {
            throw std::invalid_argument(
                "exclude_from_weight_decay: expected variables given to build, found one of shape " +
                to_string(tensor.shape()) + " that is not among them");
        }
        found->decays = false;
    }

    // Offsets first, pointers when all is reserved.
    Arena new_arena;
    const std::size_t slot_count = spec.slots.size();
    std::vector<std::size_t> offsets;
    for (const Variable& variable : new_variables) {
        const bool in_double = variable.tensor.dtype() == DType::float64;
        const std::size_t bytes = static_cast<std::size_t>(variable.tensor.size()) * (in_double ? 8 : 4);
        const std::size_t arrays = slot_count + (item_size(variable.tensor.dtype()) == 2) + options.use_ema +
                                   options.gradient_accumulation_steps.has_value();
        for (std::size_t k = 0; k < arrays; ++k) offsets.push_back(new_arena.reserve(bytes));
    }
    new_arena.allocate();

    std::vector<kernel::Job> new_jobs;
    auto offset = offsets.begin();
    const auto next = [&]() -> void* { return new_arena.at(*offset++); };
    for (const Variable& variable : new_variables) {
        const DType dtype = variable.tensor.dtype();
        kernel::Job job{};
        job.size = variable.tensor.size();
        job.weight = variable.tensor.data();
        job.storage_element = element_of(dtype);
        job.computes_in_double = dtype == DType::float64;
        for (std::size_t k = 0; k < slot_count; ++k) job.slots[k] = next();
        if (item_size(dtype) == 2) {
            job.storage = job.weight;
            job.weight = next();
        }
        if (options.use_ema) job.average = next();
        if (options.gradient_accumulation_steps) job.accumulator = next();
        new_jobs.push_back(job);
    }

    SweepPlan new_plan;
    new_plan.reserve(new_variables.size());
    for (std::size_t i = 0; i < new_variables.size(); ++i) new_plan.add(i, new_jobs[i].size);
    new_plan.run([&](std::size_t i, std::int64_t begin, std::int64_t end) {
        const kernel::Job& job = new_jobs[i];
        const std::size_t bytes = job.computes_in_double ? 8 : 4;
        const auto clear = [&](void* array) {
            if (!array) return;
            std::memset(static_cast<std::byte*>(array) + static_cast<std::size_t>(begin) * bytes, 0,
                        static_cast<std::size_t>(end - begin) * bytes);
        };
        for (void* slot : job.slots) clear(slot);
        clear(job.average);
        clear(job.accumulator);
        // A master copy of zeros differs from what the variable holds, and the first step takes what it holds.
        if (job.storage) clear(job.weight);
    });

    partials.resize(partial_count);
    variables = std::move(new_variables);
    ranges = std::move(new_ranges);
    jobs = std::move(new_jobs);
    plan = std::move(new_plan);
    arena = std::move(new_arena);
    last_step_with_gradient.assign(variables.size(), 0);
    is_built = true;
}

std::vector<NamedTensor> Optimizer::State::named_variables() {
    std::vector<NamedTensor> list;
    const std::span<const std::int64_t> scalar;
    list.push_back({"iteration", Tensor(&calls, DType::int64, scalar)});
    if (learning_rate.is_number())
        list.push_back({"learning_rate", Tensor(&learning_rate_value, DType::float64, scalar)});
    const auto add = [&](const char* what, std::size_t i, void* array) {
        const DType dtype = jobs[i].computes_in_double ? DType::float64 : DType::float32;
        list.push_back(
            {std::string(what) + "/" + variables[i].name, Tensor(array, dtype, variables[i].tensor.shape())});
    };
    for (std::size_t i = 0; i < jobs.size() && options.use_ema; ++i) add("average", i, jobs[i].average);
    for (std::size_t i = 0; i < jobs.size() && options.gradient_accumulation_steps; ++i) {
        add("gradient_accumulator", i, jobs[i].accumulator);
    }
    const int groups = spec.slots.empty() ? 0 : spec.slots.back().group + 1;
    for (int group = 0; group < groups; ++group) {
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            for (std::size_t k = 0; k < spec.slots.size(); ++k) {
                if (spec.slots[k].group == group) add(spec.slots[k].name, i, jobs[i].slots[k]);
            }
        }
    }
    return list;
}

void Optimizer::State::check_weights(std::span<const Tensor> values) {
    require_built("set_weights");
    require_not_stepping("set_weights");
    const std::vector<NamedTensor> own = named_variables();
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
    require_count("set_weights: iteration", count, 0);
    if (learning_rate.is_number()) {
        double value;
        std::memcpy(&value, values[1].data(), sizeof(value));
        require_not_negative("set_weights: learning_rate", value);
    }
}

void Optimizer::State::copy_weights(std::span<const Tensor> values) {
    const std::vector<NamedTensor> own = named_variables();
    for (std::size_t k = 0; k < own.size(); ++k) {
        if (const std::int64_t bytes = own[k].tensor.size_bytes()) {
            std::memmove(own[k].tensor.data(), values[k].data(), static_cast<std::size_t>(bytes));
        }
    }
    // Master copies are none of the values: the next step takes what the variables hold, whatever was trained before.
    for (const kernel::Job& job : jobs) {
        if (job.storage && job.size > 0) std::memset(job.weight, 0, static_cast<std::size_t>(job.size) * 4);
    }
}

Optimizer::Optimizer(Rule rule, Options options)
    : state_(std::make_unique<State>(std::move(rule), std::move(options))) {}
Optimizer::Optimizer(Optimizer&&) noexcept = default;
Optimizer& Optimizer::operator=(Optimizer&&) noexcept = default;
Optimizer::~Optimizer() = default;

void Optimizer::exclude_from_weight_decay(std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    if (state_->is_built)
        throw std::invalid_argument("exclude_from_weight_decay: expected before build, found it built");
    state_->excluded.assign(variables.begin(), variables.end());
}

void Optimizer::build(std::span<const Tensor> variables, std::span<const std::string> names) {
    const std::lock_guard lock(state_->mutex);
    state_->build(variables, names);
}

bool Optimizer::built() const {
    const std::lock_guard lock(state_->mutex);
    return state_->is_built;
}

void Optimizer::apply(std::span<const Tensor> gradients) {
    const std::lock_guard lock(state_->mutex);
    state_->step(gradients, nullptr, {1.0 / state_->loss_scale_factor, false});
}

void Optimizer::apply(std::span<const Tensor> gradients, std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    state_->step(gradients, &variables, {1.0 / state_->loss_scale_factor, false});
}

std::int64_t Optimizer::iterations() const {
    const std::lock_guard lock(state_->mutex);
    return state_->iterations();
}

std::int64_t Optimizer::calls() const {
    const std::lock_guard lock(state_->mutex);
    return state_->calls;
}

double Optimizer::learning_rate() const {
    const std::lock_guard lock(state_->mutex);
    const Hyperparameter function = state_->learning_rate;  // a copy: the call may replace the original
    return function.is_number() ? state_->learning_rate_value : function(state_->calls);
}

void Optimizer::set_learning_rate(Hyperparameter learning_rate) {
    const std::lock_guard lock(state_->mutex);
    state_->require_not_stepping("set_learning_rate");
    if (learning_rate.is_number()) {
        require_not_negative("learning_rate", learning_rate.value());
        state_->learning_rate_value = learning_rate.value();
    }
    state_->learning_rate = std::move(learning_rate);
}

double Optimizer::loss_scale_factor() const {
    const std::lock_guard lock(state_->mutex);
    return state_->loss_scale_factor;
}

std::optional<double> Optimizer::global_norm() const {
    const std::lock_guard lock(state_->mutex);
    return state_->global_norm;
}

std::vector<NamedTensor> Optimizer::variables() const {
    const std::lock_guard lock(state_->mutex);
    return state_->named_variables();
}

void Optimizer::set_weights(std::span<const Tensor> values) {
    const std::lock_guard lock(state_->mutex);
    state_->check_weights(values);
    state_->copy_weights(values);
}

void Optimizer::finalize_variable_values(std::span<const Tensor> variables) {
    const std::lock_guard lock(state_->mutex);
    state_->finalize(variables);
}

}  // namespace fusedopt
