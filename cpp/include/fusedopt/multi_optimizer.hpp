// Several optimizers, each for some of the variables, stepped as one.
#pragma once

#include <fusedopt/language.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/optimizer.hpp>

namespace fusedopt {

/// A call is checked for all optimizers before the first one writes. Each optimizer clips and averages its own
/// variables, except that a global_clipnorm given here holds for all.
///
/// All step or none does: if an optimizer with skip_nonfinite finds a gradient that is not finite, no optimizer steps.
/// Each optimizer with skip_nonfinite that takes part in the call then counts the step in its skipped_steps().
///
/// exclude_from_weight_decay is called on each optimizer, before build. It may name variables of the others, which it
/// does not exclude.
class MultiOptimizer {
public:
    /// `loss_scale_factor` replaces that of every optimizer, even if it is none.
    ///
    /// `global_clipnorm` scales all gradients of a call down to at most this norm together. An optimizer that only
    /// accumulates in this call has no part in the norm. One that updates has its averaged gradients in it. No
    /// optimizer may clip by itself.
    ///
    /// `skip_nonfinite` skips a step if any gradient is not finite, whichever optimizer it belongs to.
    explicit MultiOptimizer(std::vector<std::shared_ptr<Optimizer>> optimizers,
                            std::optional<double> loss_scale_factor = std::nullopt,
                            std::optional<double> global_clipnorm = std::nullopt, bool skip_nonfinite = false);
    MultiOptimizer(MultiOptimizer&&) noexcept;
    MultiOptimizer& operator=(MultiOptimizer&&) noexcept;
    ~MultiOptimizer();

    /// As for one Optimizer. No member may be built or sharded, and none may be called by itself then.
    void shard(Communicator communicator, bool average = false);
    void agree(const std::string& operation, const std::string& facts = {}, const std::string& error = {});
    std::int64_t agreements() const;
    std::vector<std::int64_t> borders(std::size_t variable) const;

    /// The shape of this rank's piece of a variable, and so of its slots in `variables`.
    std::vector<std::int64_t> piece_shape(std::size_t variable) const;

    /// Builds the optimizers; `assignment[i]` says which of them updates variable i. Building again adds variables, as
    /// for one Optimizer. Each built variable stays with its optimizer, which takes no further variables by itself.
    void build(std::span<const Tensor> variables, std::span<const std::size_t> assignment,
               std::span<const std::string> names = {});
    bool built() const;
    std::int64_t builds() const;

    /// Follows variables whose memory their owner has moved; all of them, in the order of build.
    void rebind(std::span<const Tensor> variables, std::optional<std::int64_t> builds = std::nullopt);

    /// False if the step was skipped because a gradient was not finite.
    bool apply(Gradients gradients, std::optional<std::int64_t> builds = std::nullopt);
    bool apply(std::initializer_list<Gradient> gradients) {
        return apply(std::span(gradients.begin(), gradients.size()));
    }
    bool apply(Gradients gradients, std::span<const Tensor> variables);
    bool apply(Gradients gradients, std::span<const std::size_t> indices,
               std::optional<std::int64_t> builds = std::nullopt);

    std::span<const std::shared_ptr<Optimizer>> optimizers() const;

    /// Replaces the constructor's options from the next step on, checked as there before any changes. Each optimizer's
    /// own hyperparameters are set on it; it refuses another loss_scale_factor than that given here, and to clip under
    /// a global_clipnorm. Inside a LossScaleOptimizer another loss_scale_factor is refused here, too.
    void set_options(std::optional<double> loss_scale_factor, std::optional<double> global_clipnorm,
                     bool skip_nonfinite);

    /// Steps taken so far. Both are the same: accumulation is each optimizer's own.
    std::int64_t iterations() const;
    std::int64_t calls() const;

    /// Steps skipped so far because a gradient was not finite. Steps that a LossScaleOptimizer around skips are not
    /// among them.
    std::int64_t skipped_steps() const;

    /// The norm over all gradients before clipping, of the last update under the global_clipnorm given here.
    std::optional<double> global_norm() const;

    /// Makes `global_norm()` what a copied optimizer's is.
    void set_global_norm(std::optional<double> global_norm);

    double loss_scale_factor() const;
    double scale_loss(double loss) const { return loss * loss_scale_factor(); }

    /// Keras's order: own iteration and learning rate (0), then each optimizer's.
    std::vector<NamedTensor> variables() const;
    void set_weights(std::span<const Tensor> values);

    /// Live views of the complete state, enough to go on with identical bits. It holds `variables()` and what Keras
    /// does not list, such as master copies of 16-bit variables. set_state takes the same list back and checks it like
    /// set_weights. An empty Tensor in it keeps what is there. Slots in 16 or 8 bits are listed as by an Optimizer.
    std::vector<NamedTensor> state() const;
    void set_state(std::span<const Tensor> values);

    /// As of one Optimizer, of all inside.
    std::int64_t state_bytes() const;

    /// Calls `function` while no step of any of these optimizers runs. What it copies from `variables()`, from
    /// `state()` and from the variables themselves is then all of one moment. Steps on other threads wait. It may call
    /// this object, but must not wait for another thread that does.
    void between_steps(const std::function<void()>& function) const;

    /// Gives rows what they have missed under RowUpdates::caught_up: all rows of all variables, or some of one.
    void catch_up();
    void catch_up(const Tensor& variable, const Tensor& indices);

    /// Writes the averages of the optimizers that keep them into their variables; all built ones, in their order.
    void finalize_variable_values(std::span<const Tensor> variables);

    /// Puts the weights to evaluate with into the variables: their moving averages, or the x of ScheduleFreeAdamW.
    /// Before the first step the variables stay as they are. `end_evaluation` brings back, bit for bit, what was there.
    /// Between the two calls, whatever reads or writes variables together with state is refused on all threads. The
    /// evaluation takes as much memory as the variables do. Variables of optimizers without such weights stay as they
    /// are; at least one optimizer must have some.
    void begin_evaluation();
    void end_evaluation();
    bool evaluating() const;

private:
    friend class LossScaleOptimizer;
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace fusedopt
