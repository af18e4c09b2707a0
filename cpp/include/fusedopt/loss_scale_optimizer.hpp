// Dynamic loss scaling around an optimizer: gradients are checked and unscaled in the same sweeps as the step.
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
#include <variant>
#include <vector>

#include <fusedopt/multi_optimizer.hpp>
#include <fusedopt/optimizer.hpp>

namespace fusedopt {

class Listing;

struct LossScaleOptions {
    double initial_scale = 32768.0;
    std::int64_t dynamic_growth_steps = 2000;
};

/// Wraps an optimizer and takes over its loss_scale_factor: as long as this object lives, the inner optimizer refuses
/// another one.
///
/// A step whose gradients are not all finite is skipped and halves the scale; after `dynamic_growth_steps` good steps
/// the scale doubles. The scale stays within the finite normal powers of two of float32. The check includes that of
/// skip_nonfinite, so an inner optimizer's skip_nonfinite changes nothing here: the inner optimizer counts none of the
/// skipped steps.
class LossScaleOptimizer {
public:
    explicit LossScaleOptimizer(Optimizer inner, LossScaleOptions options = {});
    explicit LossScaleOptimizer(std::shared_ptr<Optimizer> inner, LossScaleOptions options = {});
    explicit LossScaleOptimizer(std::shared_ptr<MultiOptimizer> inner, LossScaleOptions options = {});

    /// Builds a wrapped Optimizer, or builds it again with more variables; the scale goes on. A MultiOptimizer is built
    /// by itself: it needs an assignment.
    void build(std::span<const Tensor> variables, std::span<const std::string> names = {});
    void build(std::initializer_list<Tensor> variables) { build(std::span(variables.begin(), variables.size())); }
    bool built() const;
    std::int64_t builds() const;

    /// Follows variables whose memory their owner has moved; all of them, in the order of build.
    void rebind(std::span<const Tensor> variables, std::optional<std::int64_t> builds = std::nullopt);

    /// One step on scaled gradients. False if it was skipped because a gradient was not finite.
    bool apply(Gradients gradients, std::optional<std::int64_t> builds = std::nullopt);
    bool apply(std::initializer_list<Gradient> gradients) {
        return apply(std::span(gradients.begin(), gradients.size()));
    }
    bool apply(Gradients gradients, std::span<const Tensor> variables);
    bool apply(Gradients gradients, std::span<const std::size_t> indices,
               std::optional<std::int64_t> builds = std::nullopt);

    /// The wrapped Optimizer. Throws std::invalid_argument if it is a MultiOptimizer.
    Optimizer& inner() const;

    /// What `scale_loss` multiplies by. One that is set, rounded to float32, leaves the step counter as it is.
    double dynamic_scale() const;
    void set_dynamic_scale(double dynamic_scale);

    /// A smaller number than the step counter makes the scale double in the next good step.
    std::int64_t dynamic_growth_steps() const;
    void set_dynamic_growth_steps(std::int64_t dynamic_growth_steps);

    std::int64_t step_counter() const;
    std::int64_t consecutive_skipped_steps() const;

    /// The inner optimizer's.
    std::int64_t iterations() const;
    std::int64_t calls() const;
    std::optional<double> global_norm() const;
    void set_global_norm(std::optional<double> global_norm);
    void finalize_variable_values(std::span<const Tensor> variables);

    double scale_loss(double loss) const { return loss * dynamic_scale(); }

    /// Keras's order: own iteration (0) and learning rate (0), step counter, dynamic scale, then the inner optimizer's.
    std::vector<NamedTensor> variables() const;
    void set_weights(std::span<const Tensor> values);

    /// Live views of the complete state, enough to go on with identical bits. It holds `variables()` and what Keras
    /// does not list, such as master copies of 16-bit variables. set_state takes the same list back and checks it like
    /// set_weights. An empty Tensor in it keeps what is there. Slots in 16 or 8 bits are listed as by an Optimizer.
    std::vector<NamedTensor> state() const;
    void set_state(std::span<const Tensor> values);

    /// As of one Optimizer, of all inside.
    std::int64_t state_bytes() const;

    /// Calls `function` while no step runs. What it copies from `variables()`, from `state()` and from the variables
    /// themselves is then all of one moment. Steps on other threads wait. It may call this object, but must not wait
    /// for another thread that does.
    void between_steps(const std::function<void()>& function) const;

    /// The inner optimizer's.
    void catch_up();
    void catch_up(const Tensor& variable, const Tensor& indices);

    /// The inner optimizer's.
    void begin_evaluation();
    void end_evaluation();
    bool evaluating() const;

private:
    struct Counters;
    using Inner = std::variant<std::shared_ptr<Optimizer>, std::shared_ptr<MultiOptimizer>>;

    LossScaleOptimizer(LossScaleOptions options, Inner inner);
    bool step(Gradients gradients, const Optimizer::Choice& choice);
    std::vector<NamedTensor> listed(Listing listing) const;
    void load(Listing listing, std::span<const Tensor> values);
    template <class Function>
    auto with_inner(const Function& function) const;

    Inner inner_;
    std::shared_ptr<Counters> counters_;
};

}  // namespace fusedopt
