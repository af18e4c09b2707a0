// Everything an optimizer keeps between steps. build.cpp makes it, state.cpp reads and loads
// it, step.cpp advances it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/optimizer.hpp>

#include "given.hpp"
#include "kernel/kernel.hpp"
#include "memory.hpp"
#include "mutex.hpp"
#include "plan.hpp"
#include "procedure.hpp"
#include "rule.hpp"

namespace fusedopt {

kernel::Element element_of(DType dtype);

/// The tiles a variable is cut into.
inline std::size_t tile_count(const kernel::Job& job) {
    return static_cast<std::size_t>((job.size + kernel::tile - 1) / kernel::tile);
}

/// The shape of a slot that has an array.
std::vector<std::int64_t> shape_of(const Slot& slot, const Tensor& variable);

/// How much of the state is listed.
enum class Extent {
    keras,    // what Keras lists
    wrapped,  // what Keras lists of a wrapped optimizer: neither Nadam's product, which is recomputed, nor placeholders
    complete,  // what it takes to go on bit for bit: with master copies, and without what is derived
};

/// Whether a value leaves what is there: in set_state an empty tensor does.
inline bool keeps(const Tensor& value, Extent extent) {
    return !value && extent == Extent::complete;
}

/// What an optimizer around adds to a step.
struct Scaling {
    double unscale;
    bool skips_overflow;       // whatever the optimizer's own skip_nonfinite
    bool needs_norm = false;   // for a norm over several optimizers,
    double clip_factor = 1.0;  // which gives this
};

struct Optimizer::State {
    State(Rule rule, Options options);

    /// What build finds out before it allocates.
    struct Layout {
        std::vector<Variable> variables;
        std::vector<Range> ranges;
        std::vector<std::size_t> built;  // which of the built variables each is, or `unknown`
    };

    /// What build makes before it changes anything: memory for new variables, and everything that is as long as the
    /// list of variables. Arrays of variables that are built already stay where they are.
    struct Construction {
        Layout layout;
        std::vector<kernel::Job> jobs;
        std::vector<Arena> arenas;
        std::vector<Arena> derived;
        std::unique_ptr<Procedure> procedure;
        SweepPlan whole, selected;
        std::vector<std::size_t> without_average;
        std::vector<double> sums_of_squares;
        std::vector<kernel::TrustPartial> trust_partials;
        std::vector<std::int64_t> last_step_with_gradient;
        std::vector<kernel::Step> common;
    };

    void build(std::span<const Tensor> tensors, std::span<const std::string> names);

    /// The two halves of build; the second one cannot fail. `all` are the variables of all optimizers that are built
    /// together, which exclude_from_weight_decay may name.
    Construction construct(const Given& given, std::span<const Tensor> all) const;
    void adopt(Construction&& made) noexcept;

    /// Refuses new variables that lie in this optimizer's state.
    void require_apart(const Given& given) const;

    std::vector<NamedTensor> named_variables(Extent extent);
    void check_weights(std::span<const Tensor> values, Extent extent);
    void copy_weights(std::span<const Tensor> values, Extent extent);
    void check_finalized(std::span<const Tensor> tensors) const;
    void finalize(std::span<const Tensor> tensors);
    std::string describe(std::size_t index) const;
    void require_built(const char* function) const;
    void require_not_stepping(const char* function) const;

    /// The variable in this memory, or `unknown`.
    std::size_t find(const Tensor& tensor) const;

    /// A variable whose memory a gradient shares, or `unknown`.
    std::size_t overlapped_by(const Tensor& gradient) const;

    /// True where a gradient lies in this optimizer's state.
    bool owns(const Tensor& gradient) const;

    /// What a sum over all calls of an update, or a single gradient, is multiplied by.
    double averaging_factor(const Scaling& scaling) const;

    /// Of the gradient of a variable in the step in progress, as measured; 0 if there is none.
    double sum_of_squares(std::size_t index) const;

    std::int64_t iterations() const { return calls / accumulation_steps; }
    double current_learning_rate() const;

    /// One step of this optimizer alone. False where it was skipped because a gradient was not finite.
    bool step(std::span<const Tensor> gradients, const std::span<const Tensor>* tensors, const Scaling& scaling);

    // The phases of a step. Each of several optimizers that step together finishes one before any begins the next, and
    // only the last one writes. `tensors` null: gradients are in the built order.
    void check(std::span<const Tensor> gradients, const std::span<const Tensor>* tensors);
    bool measure(const Scaling& scaling);  // false: a gradient is not finite, and the step is to be skipped
    void evaluate(const Scaling& scaling);
    void commit();

    Rule rule;
    std::vector<RuleSpec> branches;
    Options options;
    double loss_scale_factor;
    std::int64_t accumulation_steps;
    Hyperparameter learning_rate;  // where it is a function; a number lives in learning_rate_value
    double learning_rate_value = 0.0;
    std::int64_t calls = 0;  // Keras's stored counter
    std::int64_t skipped_steps = 0;
    double product = 1.0;
    std::int64_t placeholder = 0;
    std::optional<double> global_norm;
    std::vector<Tensor> excluded;

    bool is_built = false;
    bool is_member = false;  // of a MultiOptimizer, which then knows where its variables are
    bool is_idle = false;    // in a MultiOptimizer, without variables: Keras builds no such optimizer
    std::vector<Variable> variables;
    std::vector<kernel::Job> jobs;
    std::vector<Range> ranges;
    std::vector<Arena> arenas;   // one of each build that took new variables; views of the state may be in use
    std::vector<Arena> derived;  // each variable's derived slot, once it has been listed
    std::unique_ptr<Procedure> procedure;

    mutable Mutex mutex;  // recursive: a learning-rate function may read the optimizer it serves
    bool is_stepping = false;
    bool is_update = false;  // the step in progress

private:
    const RuleSpec& branch_of(const kernel::Job& job) const { return branches[job.branch]; }
    double decay_of(const RuleSpec& branch) const {
        return options.weight_decay.value_or(branch.weight_decay.value_or(0.0));
    }
    Layout lay_out(const Given& given, std::span<const Tensor> all) const;
    Arena allocate(const Layout& layout, std::vector<kernel::Job>& new_jobs) const;
    void initialize(const kernel::Job& job, std::int64_t begin, std::int64_t end) const;
    void initialize_means(const Tensor& variable, const kernel::Job& job) const;
    void begin_averages();
    void* derive(std::size_t index);
    template <class Chosen>
    const SweepPlan& sweep_over(bool all, const Chosen& chosen);
    bool has_all_gradients() const { return sized_gradients == whole.size(); }
    bool has_trust_ratio() const;
    std::size_t index_of(std::size_t position, const Tensor& tensor) const;
    void check_gradient(std::size_t index, const Tensor& gradient);
    void assign_gradient(std::size_t index, const Tensor& gradient);
    void assign_gradients(std::span<const Tensor> gradients, std::span<const Tensor> tensors);
    void set_factors(const Scaling& scaling, double learning_rate);

    void set_trust_ratios();

    // Of variables that no call has averaged yet. After the first update, an average begins at the variable's value.
    std::vector<std::size_t> without_average;

    // Of the step in progress.
    std::vector<kernel::Step> common;  // of each branch
    double next_product = 1.0;
    std::optional<double> next_global_norm;

    bool has_any_gradient = false;
    std::size_t sized_gradients = 0;  // those with elements: without any, a variable may be given twice
    SweepPlan whole;                  // all variables
    SweepPlan selected;               // some
    std::vector<kernel::TrustPartial> trust_partials;  // of every tile, for a rule with a trust ratio
    std::vector<std::int64_t> last_step_with_gradient;
    std::int64_t steps_begun = 0;
    std::vector<double> sums_of_squares;  // of every tile
};

}  // namespace fusedopt
