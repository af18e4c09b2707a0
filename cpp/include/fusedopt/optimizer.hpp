// One optimizer: a rule, the options every rule shares, and all state between steps.
#pragma once

#include <fusedopt/language.hpp>

#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/rules.hpp>
#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// What every rule can do besides its formula. Names and meaning are Keras 3's.
struct Options {
    std::optional<Hyperparameter> learning_rate = {};  // none: the rule's default
    std::optional<double> weight_decay = {};
    std::optional<double> clipnorm = {};
    std::optional<double> clipvalue = {};
    std::optional<double> global_clipnorm = {};
    bool use_ema = false;
    double ema_momentum = 0.99;
    std::optional<std::int64_t> ema_overwrite_frequency = {};
    std::optional<double> loss_scale_factor = {};
    std::optional<std::int64_t> gradient_accumulation_steps = {};
    bool skip_nonfinite =
        false;  // not Keras's: a step with a NaN or infinity in a gradient changes nothing but a count
};

/// A piece of optimizer state by name, for example "momentum/dense/kernel".
struct NamedTensor {
    std::string name;
    Tensor tensor;
};

/// Updates variables in place. Every refusal is a std::invalid_argument thrown before anything is written.
///
/// One object may be used from several threads: its calls are serialised. Different objects run in parallel. Live views
/// are memory that a step on another thread writes: `between_steps` keeps such steps out while they are read.
class Optimizer {
public:
    explicit Optimizer(Rule rule, Options options = {});
    Optimizer(Optimizer&&) noexcept;
    Optimizer& operator=(Optimizer&&) noexcept;
    ~Optimizer();

    /// Leaves these variables out of weight decay; before the build that takes them. A later call replaces an earlier
    /// one. Each must be given to build. Inside a MultiOptimizer another member may update it.
    void exclude_from_weight_decay(std::span<const Tensor> variables);

    /// Takes the variables to update and allocates all state. `names` serve messages and `variables()`.
    ///
    /// Building again adds variables. All built ones, recognised by their memory, must be among the given ones. They
    /// keep their state bit for bit, their names, and whether they decay; views of their state stay valid. New ones
    /// begin as in a first build, and the counters go on. During an accumulation the sum of a new variable begins at
    /// zero. After the first update its average begins at the value that it has in the next call. From then on
    /// gradients come in the new order. Given the same variables, nothing changes.
    void build(std::span<const Tensor> variables, std::span<const std::string> names = {});
    void build(std::initializer_list<Tensor> variables) { build(std::span(variables.begin(), variables.size())); }
    bool built() const;

    /// One step: a gradient for each built variable, in order; an empty Tensor where there is none.
    /// False if skip_nonfinite is on and the step was skipped because a gradient was not finite.
    bool apply(std::span<const Tensor> gradients);
    bool apply(std::initializer_list<Tensor> gradients) {
        return apply(std::span(gradients.begin(), gradients.size()));
    }

    /// One step for these variables only, recognised by their memory.
    bool apply(std::span<const Tensor> gradients, std::span<const Tensor> variables);

    /// Updates done so far: calls() divided by gradient_accumulation_steps, where that is set.
    std::int64_t iterations() const;

    /// Steps taken so far, also those that only accumulated; what a learning-rate function is called with.
    std::int64_t calls() const;

    /// Steps that skip_nonfinite has skipped so far. Steps that a LossScaleOptimizer around skips are not among them.
    std::int64_t skipped_steps() const;

    /// The learning rate of the next step. A function is called.
    double learning_rate() const;
    void set_learning_rate(Hyperparameter learning_rate);

    double loss_scale_factor() const;
    double scale_loss(double loss) const { return loss * loss_scale_factor(); }

    /// The norm over all gradients before clipping, of the last update under global_clipnorm.
    std::optional<double> global_norm() const;

    /// Live views of all state in Keras's order: iteration, learning rate, averages, accumulators, slots.
    std::vector<NamedTensor> variables() const;

    /// Copies values into `variables()`: same count, shapes and dtypes, all checked before the first is written.
    void set_weights(std::span<const Tensor> values);

    /// Live views of everything it takes to go on bit for bit: `variables()`, and what Keras does not list (master
    /// copies of 16-bit variables, and so on). set_state takes the same list back, checked like set_weights;
    /// an empty Tensor in it keeps what is there.
    std::vector<NamedTensor> state() const;
    void set_state(std::span<const Tensor> values);

    /// Calls `function` while no step runs. What it copies from `variables()`, from `state()` and from the
    /// variables themselves is then all of one moment. Steps on other threads wait. It may call this object, and must
    /// not wait for another thread that does.
    void between_steps(const std::function<void()>& function) const;

    /// Writes the averages into the variables, which must be the built ones in their order. Nothing without EMA.
    void finalize_variable_values(std::span<const Tensor> variables);

private:
    friend class LossScaleOptimizer;
    friend class MultiOptimizer;
    friend struct Share;
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace fusedopt
