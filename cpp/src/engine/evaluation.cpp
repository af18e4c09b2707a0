// The weights to evaluate with (averages, or the x of a schedule-free rule) in the place of those in training. The
// bytes of the variables are set aside. Master copies stay as they are, and fit the variables again when these are
// back.
#include <algorithm>
#include <array>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "engine/check.hpp"
#include "engine/state.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"

namespace fusedopt {
namespace {

// w = (1 - beta_1) z + beta_1 x. In this form x is exactly w where z is.
template <class T>
void evaluate_at(const void* z, double beta_1, void* w, void* x, std::int64_t n) {
    const T b = static_cast<T>(beta_1);
    const T* slot = static_cast<const T*>(z);
    const T* weight = static_cast<const T*>(w);
    for (std::int64_t i = 0; i < n; ++i) static_cast<T*>(x)[i] = slot[i] + (weight[i] - slot[i]) / b;
}

void evaluate_at(const RuleSpec& spec, const kernel::Job& job, double beta_1, void* x) {
    if (job.computes_in_double) return evaluate_at<double>(job.slots[0], beta_1, job.weight, x, job.size);
    if (!is_coded(spec.slots[0], job)) return evaluate_at<float>(job.slots[0], beta_1, job.weight, x, job.size);
    std::array<float, kernel::tile> z;
    for (std::int64_t i = 0, next; i < job.size; i = next) {
        next = std::min(i + kernel::tile, job.size);
        read_slot(spec, job, 0, i, next, z.data());
        evaluate_at<float>(z.data(), beta_1, static_cast<float*>(job.weight) + i, static_cast<float*>(x) + i, next - i);
    }
}

}  // namespace

bool Optimizer::State::has_evaluation_weights() const {
    return options.use_ema || branches[0].interpolates;
}

void Optimizer::State::require_training_weights(const char* function) const {
    if (is_evaluating) {
        throw std::invalid_argument(std::string(function) +
                                    ": expected the weights in training, found the variables lent to an evaluation; "
                                    "end it first, in Python by leaving the block of evaluation_weights");
    }
}

void Optimizer::State::require_no_evaluation(const char* function) const {
    require_built(function);
    require_not_stepping(function);
    require_training_weights(function);
}

// All that may throw.
void Optimizer::State::prepare_evaluation() {
    evaluation = {};
    std::size_t bytes = 0, widest = 0;
    for (const Variable& variable : variables) {
        bytes += static_cast<std::size_t>(variable.tensor.size_bytes());
        if (item_size(variable.tensor.dtype()) == 2) {
            widest = std::max(widest, static_cast<std::size_t>(variable.tensor.size()));
        }
    }
    if (!options.use_ema && branches[0].interpolates) {
        evaluation.beta_1 = (*definition_of(rule).betas(rule).beta_1)(calls);
        if (!(evaluation.beta_1 > 0.0 && evaluation.beta_1 <= 1.0)) {
            refuse("beta_1", "a number in (0, 1)", evaluation.beta_1);
        }
    }
    evaluation.training = std::make_unique_for_overwrite<std::byte[]>(bytes);
    evaluation.master.resize(widest);
    evaluation.average.resize(widest);
}

void Optimizer::State::begin_evaluation() noexcept {
    catch_up_all();
    const FloatEnvironment environment;
    const bool has_any = has_evaluation_weights() && calls > 0;  // before the first step there is nothing to average
    std::byte* aside = evaluation.training.get();
    for (std::size_t i = 0; i < jobs.size(); ++i) {
        const Tensor& tensor = variables[i].tensor;
        if (tensor.size() == 0) continue;
        const auto bytes = static_cast<std::size_t>(tensor.size_bytes());
        std::memcpy(aside, tensor.data(), bytes);
        aside += bytes;
        if (!has_any) continue;
        kernel::Job job = jobs[i];
        job.gradient = nullptr;
        job.work = kernel::Work::none;
        const auto hold = [&] { current_kernels().other_work[job.computes_in_double]({}, {&job, &job, 0, job.size}); };
        if (job.storage) {
            if (job.weight) {
                std::memcpy(evaluation.master.data(), job.weight, static_cast<std::size_t>(job.size) * sizeof(float));
            } else {
                std::fill_n(evaluation.master.begin(), job.size, 0.0f);
            }
            job.weight = evaluation.master.data();
        }
        if (!options.use_ema) {
            if (job.storage) {  // brings the copy of the master up to date, as in the first step
                std::fill_n(evaluation.average.begin(), job.size, 0.0f);
                job.average = evaluation.average.data();
                hold();
            }
            void* x = job.storage ? job.average : job.weight;
            evaluate_at(branch_of(job), job, evaluation.beta_1, x);
        }
        if (job.storage) {
            job.work = kernel::Work::restore;
            hold();
        } else if (options.use_ema) {
            std::memcpy(job.weight, job.average, bytes);
        }
    }
    evaluation.master = {};
    evaluation.average = {};
    is_evaluating = true;
}

void Optimizer::State::end_evaluation() noexcept {
    const std::byte* aside = evaluation.training.get();
    for (const Variable& variable : variables) {
        const auto bytes = static_cast<std::size_t>(variable.tensor.size_bytes());
        if (bytes == 0) continue;
        std::memcpy(variable.tensor.data(), aside, bytes);
        aside += bytes;
    }
    evaluation = {};
    is_evaluating = false;
}

}  // namespace fusedopt
