// Everything that an optimizer keeps between steps. build.cpp makes it, state.cpp reads and loads it, and step.cpp
// advances it.
// One file, though long: it is one struct, and its phases need what stands next to them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <fusedopt/optimizer.hpp>

#include "engine/given.hpp"
#include "engine/listing.hpp"
#include "engine/missed.hpp"
#include "engine/plan.hpp"
#include "engine/rows.hpp"
#include "engine/slot_memory.hpp"
#include "kernel/kernel.hpp"
#include "rules/procedure.hpp"
#include "rules/rule.hpp"
#include "runtime/memory.hpp"
#include "runtime/mutex.hpp"

namespace fusedopt {

class Ranks;

kernel::Element element_of(DType dtype);

/// The type in which a variable is updated, that of its state.
inline DType compute_type(const kernel::Job& job) {
    return job.computes_in_double ? DType::float64 : DType::float32;
}

/// For a few numbers a call of memcmp takes longer than this loop.
inline bool same_shape(const Tensor& a, const Tensor& b) {
    if (a.rank() != b.rank()) return false;
    const std::int64_t *of_a = a.shape().data(), *of_b = b.shape().data();
    for (std::size_t d = 0; d < a.rank(); ++d) {
        if (of_a[d] != of_b[d]) return false;
    }
    return true;
}

/// The tiles that so many elements are cut into.
inline std::size_t tiles_of(std::int64_t elements) {
    return static_cast<std::size_t>((elements + kernel::tile - 1) / kernel::tile);
}

inline std::size_t tile_count(const kernel::Job& job) {
    return tiles_of(job.size);
}

/// What a wrapper adds to a step.
struct Scaling {
    double unscale;
    bool skips_overflow;       // whatever the optimizer's own skip_nonfinite
    bool needs_norm = false;   // for a norm over several optimizers,
    double clip_factor = 1.0;  // which gives this
};

/// What a wrapper has taken over from the optimizers inside it, as long as it lives.
struct Takeover {
    const char* owner;
    const char* scale;        // where the loss's scale is set now
    bool clips_norm = false;  // so that they may not clip
};

/// All that wrappers have taken over from one optimizer.
class Takeovers {
public:
    void add(const std::shared_ptr<const Takeover>& takeover);

    /// Refuses another loss_scale_factor than the present one.
    void require_loss_scale_factor(double present, std::optional<double> wanted) const;
    void require_no_clip(const Options& options) const;

private:
    std::vector<std::weak_ptr<const Takeover>> takeovers_;
};

/// `where` says which of several optimizers it is.
void require_no_clip(const Options& options, const std::string& where);

/// The variables that a call is for: all in the order of build, or some by their memory or by their places in build.
struct Optimizer::Choice {
    using Tensors = std::span<const Tensor>;
    using Indices = std::span<const std::size_t>;
    std::variant<std::monostate, Tensors, Indices> by;
    std::optional<std::int64_t> builds = std::nullopt;  // how many there were when the gradients were put in order

    std::size_t count(std::size_t all) const {
        if (const auto* tensors = std::get_if<Tensors>(&by)) return tensors->size();
        if (const auto* indices = std::get_if<Indices>(&by)) return indices->size();
        return all;
    }
};

/// True for the very memory that was checked in an earlier step.
bool is_checked(const Variable& variable, const Tensor& gradient);

/// Refuses a dense gradient of another shape than its variable's, of a type that is none, or in memory that is not
/// apart from the variables and the state.
void check_gradient(std::size_t index, const Tensor& gradient, std::span<Variable> variables,
                    std::span<const Range> ranges, bool lies_in_state);

/// Refuses what was put in order before the last build.
void require_latest(const char* function, std::optional<std::int64_t> builds, std::int64_t latest);

/// The index at this position of a call, if there is such a variable.
std::size_t checked_index(std::span<const std::size_t> indices, std::size_t position, std::size_t variables);

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
        std::vector<std::int64_t> last_step_with_gradient;
        std::vector<kernel::Step> common;
        std::vector<History> histories;
    };

    void build(std::span<const Tensor> tensors, std::span<const std::string> names);

    /// The parts of build; the last one cannot fail. `all` are the variables of all optimizers that are built together,
    /// which exclude_from_weight_decay may name.
    Layout lay_out(const Given& given, std::span<const Tensor> all) const;
    Construction construct(Layout layout) const;
    void adopt(Construction&& made) noexcept;

    /// Refuses new variables that lie in this optimizer's state.
    void require_apart(const Given& given) const;

    /// Finds the variables in other memory, from now on.
    void rebind(std::span<const Tensor> tensors, std::optional<std::int64_t> builds_then);
    void move_to(const Given& given, std::vector<Range>&& new_ranges) noexcept;

    /// All of it, with every row caught up, behind what an owner around it has listed.
    std::vector<NamedTensor> listed(Listing listing);

    void append_to(Listing& listing);

    /// Of all arrays that it keeps.
    std::int64_t state_bytes() const;
    void load(Listing listing, std::span<const Tensor> values) { fusedopt::load(*this, std::move(listing), values); }
    void require_loadable() const;

    /// The rule's numbers after a load: loaded, or restored from the count, for which a function of the caller's may
    /// be called and throw.
    std::vector<double> numbers_after(const Loading& loading) const;

    /// What else a load changes.
    void settle(const Loading& loading, const std::vector<double>& loaded_numbers) noexcept;

    /// The variables that were given to build, whole.
    std::vector<const Variable*> built_variables() const;

    /// Whom to ask before a call; null in a single process. Refuses a call that is the sharded MultiOptimizer's to
    /// make.
    Ranks* ranks_for(const char* function) const;

    void finalize(std::span<const Tensor> tensors);
    void write_averages();
    void catch_up();
    void catch_up(const Tensor& variable, const Tensor& indices);
    void catch_up_all() noexcept;  // the same as catch_up(), where nothing can be in its way
    void exclude(std::span<const Tensor> tensors);
    bool excludes_some() const;
    void set_rule(Rule& new_rule);           // both leave the old one
    void set_options(Options& new_options);  // in its place
    void set_learning_rate(Hyperparameter& rate);
    void set_loss_scale_factor(std::optional<double> factor);
    std::string describe(std::size_t index) const;
    void require_built(const char* function) const;
    void require_not_stepping(const char* function) const;

    // Weights for an evaluation in the place of those in training. Between `prepare`, which may throw, and `begin`
    // nothing may happen.
    bool has_evaluation_weights() const;
    void require_training_weights(const char* function) const;
    void require_no_evaluation(const char* function) const;
    void prepare_evaluation();
    void begin_evaluation() noexcept;
    void end_evaluation() noexcept;

    /// The variable in this memory, or `unknown`.
    std::size_t find(const Tensor& tensor) const;

    /// A variable whose memory a gradient shares, or `unknown`.
    std::size_t overlapped_by(const Tensor& gradient) const;

    /// True if a gradient lies in this optimizer's state.
    bool owns(const Tensor& gradient) const;

    /// What a sum over all calls of an update, or a single gradient, is multiplied by.
    double averaging_factor(const Scaling& scaling) const;

    /// Of the gradient of a variable in the step in progress, as measured; 0 if there is none.
    double sum_of_squares(std::size_t index) const;

    /// The same of each tile of a dense gradient.
    std::span<const double> tile_sums(std::size_t index) const {
        return std::span(sums_of_squares).subspan(jobs[index].first_partial, tile_count(jobs[index]));
    }

    std::int64_t iterations() const { return calls / accumulation_steps; }
    double current_learning_rate() const;

    /// Whether a step reads the gradients for a norm, and whether it is skipped if one is not finite.
    bool needs_norm(const Scaling& scaling) const {
        return is_update && (options.clipnorm || options.global_clipnorm || scaling.needs_norm);
    }
    bool skips_overflow(const Scaling& scaling) const { return scaling.skips_overflow || options.skip_nonfinite; }

    /// One step of this optimizer alone. False if it was skipped because a gradient was not finite.
    bool step(Gradients gradients, const Choice& choice, const Scaling& scaling);
    bool step_own(Gradients gradients, const Choice& choice, const Scaling& scaling);  // of this rank

    // The phases of a step. If several optimizers step together, all finish a phase before any begins the next. Only
    // the last phase writes.
    void check(Gradients gradients, const Choice& choice);
    bool measure(const Scaling& scaling);  // false: a gradient is not finite, and the step is to be skipped
    void evaluate(const Scaling& scaling);
    void commit();

    // The parts of the last phase. What end_commit finds not swept yet, it sweeps.
    void begin_commit();
    void sweep_until(std::size_t variable, std::int64_t element);  // at a tile border
    void end_commit();

    Rule rule;
    std::vector<RuleSpec> branches;
    Options options;  // but for the learning rate
    double loss_scale_factor;
    std::int64_t accumulation_steps;
    Hyperparameter learning_rate;  // if it is a function; a number lives in learning_rate_value
    double learning_rate_value = 0.0;
    std::int64_t calls = 0;  // Keras's stored counter
    std::int64_t skipped_steps = 0;
    std::vector<double> numbers;  // those of the rule
    std::int64_t placeholder = 0;
    std::optional<double> global_norm;
    std::vector<Tensor> excluded;
    Takeovers takeovers;

    std::shared_ptr<Ranks> ranks;         // of a sharded optimizer, whose variables are this rank's pieces
    std::vector<double> sums_over_ranks;  // of squares of the gradient of each variable, as last measured there

    bool is_built = false;
    std::int64_t builds = 0;
    bool is_member = false;  // of a MultiOptimizer, which then knows its variables' places
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
    bool is_evaluating = false;

private:
    friend class Ranks;

    struct Evaluation {
        std::unique_ptr<std::byte[]> training;  // what the variables held, one after the other
        double beta_1 = 1.0;
        std::vector<float> master;  // of one 16-bit variable
        std::vector<float> average;
    };

    const RuleSpec& branch_of(const kernel::Job& job) const { return branches[job.branch]; }
    double decay_of(const RuleSpec& branch) const {
        return options.weight_decay.value_or(branch.weight_decay.value_or(0.0));
    }
    std::optional<std::vector<RuleSpec>> on_built_slots(const Rule& new_rule) const;
    std::vector<RuleSpec> respecify(Rule& new_rule) const;
    Arena allocate(const Layout& layout, std::vector<kernel::Job>& new_jobs) const;
    void set_slot_code(const Variable& variable, std::size_t index, kernel::Job& job) const;
    void initialize(const kernel::Job& job, std::int64_t begin, std::int64_t end) const;
    void initialize_short_slots(const Tensor& variable, const kernel::Job& job) const;
    void begin_averages();
    void* derive(std::size_t index);
    void append_slot(Listing& listing, std::size_t index, std::size_t slot);
    kernel::Guard guard_of_loaded(std::size_t branch) const;
    void encode_loaded(const Loading& loading) noexcept;
    void restore_without_master(std::size_t index, std::vector<float>& held);
    void require_slot_dtypes(const Options& options, std::span<const RuleSpec> branches) const;
    void require_known_names(std::span<const Variable> all) const;
    template <class Chosen>
    const SweepPlan& sweep_over(bool all, const Chosen& chosen);
    void plan_sweep();
    void sweep_rows();
    void sweep_by_rows(const kernel::Stretch& stretch, kernel::SweepFunction update) const;
    Table table_of(std::size_t index) const;
    void set_slot_sizes(Table& table) const;
    void catch_up_table(std::size_t index) noexcept;
    void catch_up_rows(const RowBatch& batch) const;
    void catch_up_before_step() noexcept;
    kernel::Missed missed_in_step(const kernel::Job& job) const;
    void require_row_updates(const Options& options, std::span<const RuleSpec> branches) const;
    bool has_all_gradients() const { return sized_gradients == whole.size(); }
    std::size_t index_of(std::size_t position, const Tensor& tensor) const;
    void assign_gradient(std::size_t index, const Tensor& gradient, const Tensor* indices);
    void assign_rows(std::size_t index, const Tensor& values, const Tensor& indices);
    template <class IndexAt>
    void assign_gradients(Gradients gradients, const IndexAt& index_at);
    void set_factors(const Scaling& scaling, double learning_rate);

    // Of variables that no call has averaged yet. After the first update, an average begins at the variable's value.
    std::vector<std::size_t> without_average;

    // Of the step in progress.
    std::vector<kernel::Step> common;  // of each branch
    std::vector<double> next_numbers;
    std::optional<double> next_global_norm;

    bool has_any_gradient = false;
    Rows rows;
    std::vector<History> histories;         // of the variables, under RowUpdates::caught_up
    std::size_t sized_gradients = 0;        // those with elements: without any, a variable may be given twice
    SweepPlan whole;                        // all variables
    SweepPlan selected;                     // some
    const SweepPlan* swept_plan = nullptr;  // one of these,
    std::int64_t swept = 0;                 // and how far the sweep has come
    std::vector<std::int64_t> last_step_with_gradient;
    std::int64_t steps_begun = 0;
    std::vector<double> sums_of_squares;  // of every tile

    Evaluation evaluation;
};

}  // namespace fusedopt
