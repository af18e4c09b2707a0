// One optimizer: a rule, the options every rule shares, and all state between steps.
// One file, though long: it is the documentation of one class.
#pragma once

#include <fusedopt/language.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

#include <fusedopt/fields.hpp>
#include <fusedopt/gradients.hpp>
#include <fusedopt/rules.hpp>
#include <fusedopt/sharding.hpp>
#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// What a step with a RowGradient means for the rows of the variable that it leaves out.
enum class RowUpdates : std::uint8_t {
    lazy,       // nothing: they stand still, decay and slots too
    caught_up,  // what a gradient of zero does to them, all at once when they are touched or read next
};

/// "lazy" or "caught_up".
std::string_view to_string(RowUpdates row_updates);

/// How an optimizer keeps the slots of float32 and 16-bit variables that have one number for each element. A step
/// computes with float32 numbers, and rounds them at random when it puts them back, so that none is lost on average.
enum class SlotDType : std::uint8_t {
    float32,
    bfloat16,  // 2 bytes
    float8,    // a byte, and 2 bytes for each block of 64 elements; not for every rule
};

/// "float32", "bfloat16" or "float8".
std::string_view to_string(SlotDType slot_dtype);

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
    RowUpdates row_updates = RowUpdates::lazy;  // not Keras's

    /// Not Keras's. Slots with one number for a row, averages, accumulators and all state of float64 variables stay as
    /// they are. SlotDType::float8 leaves variables of fewer than 4096 elements out, unless `slot_dtypes` names them.
    /// Gradients of rows then need rows of a multiple of 64 elements, and RowUpdates::caught_up full slots.
    SlotDType slot_dtype = SlotDType::float32;
    std::map<std::string, SlotDType> slot_dtypes = {};  // of single variables, by the names given to build

    // Not Keras's.
    std::int64_t seed = 0;  // of rounding at random
    bool master = true;     // false: variables of 16 bits have no float32 copy, and steps round them at random

    static constexpr const char* name = "Options";
    static constexpr auto fields() {
        return std::tuple(
            Field("learning_rate", &Options::learning_rate, domains::not_negative),
            Field("weight_decay", &Options::weight_decay, domains::not_negative),
            Field("clipnorm", &Options::clipnorm, domains::positive),
            Field("clipvalue", &Options::clipvalue, domains::positive),
            Field("global_clipnorm", &Options::global_clipnorm, domains::positive), Field("use_ema", &Options::use_ema),
            Field("ema_momentum", &Options::ema_momentum, domains::from_0_to_1),
            Field("ema_overwrite_frequency", &Options::ema_overwrite_frequency, domains::integer_from_1),
            Field("loss_scale_factor", &Options::loss_scale_factor, domains::positive),
            Field("gradient_accumulation_steps", &Options::gradient_accumulation_steps, domains::integer_from_2),
            Field("skip_nonfinite", &Options::skip_nonfinite), Field("row_updates", &Options::row_updates),
            Field("slot_dtype", &Options::slot_dtype), Field("slot_dtypes", &Options::slot_dtypes),
            Field("seed", &Options::seed, domains::integer_from_0), Field("master", &Options::master));
    }
};

/// A piece of optimizer state by name, for example "momentum/dense/kernel".
struct NamedTensor {
    std::string name;
    Tensor tensor;
    std::shared_ptr<const void> memory = nullptr;  // of a copy; null: the tensor is a live view

    // A structured binding, `const auto& [name, tensor]`, has these two. `memory` stays where it is.
    template <std::size_t I>
    constexpr auto& get() & {
        return std::get<I>(std::tie(name, tensor));
    }
    template <std::size_t I>
    constexpr const auto& get() const& {
        return std::get<I>(std::tie(name, tensor));
    }
    template <std::size_t I>
    constexpr auto&& get() && {
        return std::move(std::get<I>(std::tie(name, tensor)));
    }
};

/// A change that a built optimizer cannot make: it needs other state than was built.
class BuiltError : public std::invalid_argument {
public:
    using std::invalid_argument::invalid_argument;
};

/// Updates variables in place. Every refusal is a std::invalid_argument thrown before anything is written.
///
/// One object may be used from several threads: its calls are serialised. Different objects run in parallel. A step on
/// another thread writes into live views. `between_steps` keeps such steps out while a program reads them.
class Optimizer {
public:
    explicit Optimizer(Rule rule, Options options = {});
    Optimizer(Optimizer&&) noexcept;
    Optimizer& operator=(Optimizer&&) noexcept;
    ~Optimizer();

    /// Leaves these variables out of weight decay. Call it before the build that takes them. A later call replaces an
    /// earlier one. Each must be given to build. Inside a MultiOptimizer another member may update it.
    void exclude_from_weight_decay(std::span<const Tensor> variables);

    /// Shares the work and the state out to the ranks of `communicator`, which sharding.hpp tells about. Call it before
    /// build; it cannot be undone. Gradients are summed over ranks, and divided by their number if `average` is true.
    void shard(Communicator communicator, bool average = false);

    /// Waits until all ranks call it. Refused on all if one gives an error, or if operations or facts (text) differ. A
    /// program calls it with an error if it fails where the other ranks wait for its part in a call.
    void agree(const std::string& operation, const std::string& facts = {}, const std::string& error = {});

    /// How often this rank has agreed with the others. A call that throws and leaves it as it was went unnoticed.
    std::int64_t agreements() const;

    /// The elements of a variable that rank k keeps are those from borders[k] to borders[k + 1].
    std::vector<std::int64_t> borders(std::size_t variable) const;

    /// The shape of this rank's piece of a variable, and so of its slots in `variables`.
    std::vector<std::int64_t> piece_shape(std::size_t variable) const;

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

    /// Follows variables whose memory their owner has moved. The views are those of all built variables in their order,
    /// where they lie now, with the types and shapes of the build. The state goes on, and what lies in the new memory
    /// counts. An evaluation under way ends in the new memory.
    ///
    /// Another thread may build again meanwhile. If it may, give what `builds()` was when the views were made.
    void rebind(std::span<const Tensor> variables, std::optional<std::int64_t> builds = std::nullopt);

    /// How many builds have given this optimizer its variables or changed them.
    std::int64_t builds() const;

    /// One step: a gradient for each built variable, in order; an empty Tensor if there is none. False if
    /// skip_nonfinite is on and the step was skipped because a gradient was not finite.
    ///
    /// A RowGradient costs what its rows cost, whatever the size of the table. Its values count for norms, clips and
    /// the overflow check once those of equal rows are summed. Rows that it leaves out stand still, or follow later:
    /// see RowUpdates. With use_ema every step passes over the whole table, for its average. Lamb, Adafactor and Muon's
    /// matrices take no RowGradient, as they need the whole variable; nor does gradient_accumulation_steps.
    ///
    /// Another thread may build again while the gradients are put in order. If it may, give what `builds()` was before;
    /// std::invalid_argument if it is another now.
    bool apply(Gradients gradients, std::optional<std::int64_t> builds = std::nullopt);
    bool apply(std::initializer_list<Gradient> gradients) {
        return apply(std::span(gradients.begin(), gradients.size()));
    }

    /// One step for these variables only, recognised by their memory.
    bool apply(Gradients gradients, std::span<const Tensor> variables);

    /// The same, for variables given by their places in build, in any order. Nothing has to be looked up.
    bool apply(Gradients gradients, std::span<const std::size_t> indices,
               std::optional<std::int64_t> builds = std::nullopt);

    /// Updates done so far: calls() divided by gradient_accumulation_steps, if that is set.
    std::int64_t iterations() const;

    /// Steps taken so far, also those that only accumulated; what a learning-rate function is called with.
    std::int64_t calls() const;

    /// Steps that skip_nonfinite has skipped so far. Steps that a LossScaleOptimizer around skips are not among them.
    /// `state` lists the count while skip_nonfinite is on.
    std::int64_t skipped_steps() const;

    /// The learning rate of the next step. A function is called.
    double learning_rate() const;
    void set_learning_rate(Hyperparameter learning_rate);

    /// The hyperparameters of now, and the common options. The learning rate is that of `set_learning_rate`, too.
    Rule rule() const;
    Options options() const;

    /// Replaces all hyperparameters of the rule, or all common options. They act from the next step on, and mean what
    /// they mean in Keras if they are assigned there. The state goes on: counters, slots, averages, Nadam's product. A
    /// slot that is no longer used, such as that of a momentum which is now 0, keeps its values and its place in
    /// `variables`, and is used again later. Without a learning rate in the options the present one stays. `variables`
    /// and `state` list what they listed before, with two exceptions: a learning rate is listed if it is a number, and
    /// `skipped_steps` while skip_nonfinite is on.
    ///
    /// Everything is checked before anything changes. A value out of its range, or another rule, is a
    /// std::invalid_argument. So is another loss_scale_factor inside a LossScaleOptimizer or a MultiOptimizer, and
    /// clipping inside a MultiOptimizer with a global_clipnorm. A built optimizer throws BuiltError if the change needs
    /// other state: a slot that was not built (for amsgrad, centered or a momentum), initial_accumulator_value,
    /// use_ema, gradient_accumulation_steps, row_updates, slot_dtype, slot_dtypes, master, or an `excludes` by which
    /// Muon would treat a variable in its other way. A function that a step calls may call neither on its optimizer.
    void set_rule(Rule rule);
    void set_options(Options options);

    double loss_scale_factor() const;
    double scale_loss(double loss) const { return loss * loss_scale_factor(); }

    /// The norm over all gradients before clipping, of the last update under global_clipnorm.
    std::optional<double> global_norm() const;

    /// Makes `global_norm()` what a copied optimizer's is.
    void set_global_norm(std::optional<double> global_norm);

    /// Live views of all state in Keras's order: iteration, learning rate, averages, accumulators, slots. Slots in 16
    /// or 8 bits are listed as float32 copies: what is written into one changes nothing.
    std::vector<NamedTensor> variables() const;

    /// Copies values into `variables()`: same count, shapes and dtypes, all checked before the first is written. Slots
    /// in 16 or 8 bits take the nearest code.
    void set_weights(std::span<const Tensor> values);

    /// Live views of the complete state, enough to go on with identical bits. It holds `variables()` and what Keras
    /// does not list, such as master copies of 16-bit variables. Slots in 16 bits are bfloat16. Those in 8 bits are two
    /// arrays: uint8 codes of shape (blocks, 64), and "<slot>_scale/<variable>", a uint16 for each block. The seed is
    /// there if anything is rounded at random. set_state takes the same list back and checks it like set_weights. An
    /// empty Tensor in it keeps what is there. Codes are given with their scales, or both are empty. In the place of
    /// codes it takes their numbers, too, as float32 of the variable's shape, and codes them as set_weights does. The
    /// scales must be empty then.
    std::vector<NamedTensor> state() const;
    void set_state(std::span<const Tensor> values);

    /// The bytes of what it keeps beside the variables: slots with their scales, averages, accumulators, master copies,
    /// and what RowUpdates::caught_up notes of rows. Numbers of the whole optimizer and the working memory of a step
    /// are not among them. 0 before build; a sharded optimizer has its own rank's.
    std::int64_t state_bytes() const;

    /// Calls `function` while no step runs. What it copies from `variables()`, from `state()` and from the variables
    /// themselves is then all of one moment. Steps on other threads wait. It may call this object, but must not wait
    /// for another thread that does.
    void between_steps(const std::function<void()>& function) const;

    /// Gives rows what they have missed under RowUpdates::caught_up: all rows of all variables, or some of one
    /// variable. Before a forward pass, that is the rows which it will read. `indices` are as in RowGradient; an empty
    /// Tensor means all rows of the variable. With RowUpdates::lazy there is nothing to do.
    ///
    /// Catch rows up before you read or write them by hand, too. What is written into a row that is behind counts as if
    /// it had been there all the time: what the row has missed is applied to it later. Lists of the state catch all
    /// rows up, so read `state()` before the variables.
    void catch_up();
    void catch_up(const Tensor& variable, const Tensor& indices);

    /// Writes the averages into the variables, which must be the built ones in their order. Does nothing without EMA.
    void finalize_variable_values(std::span<const Tensor> variables);

    /// Puts the weights to evaluate with into the variables: their moving averages, or the x of ScheduleFreeAdamW.
    /// Before the first step the variables stay as they are. `end_evaluation` brings back, bit for bit, what was there.
    /// Between the two calls, whatever reads or writes variables together with state is refused on all threads. The
    /// evaluation takes as much memory as the variables do.
    void begin_evaluation();
    void end_evaluation();
    bool evaluating() const;

private:
    friend class LossScaleOptimizer;
    friend class MultiOptimizer;
    friend class Ranks;
    friend struct Participant;
    struct Choice;
    struct State;
    std::unique_ptr<State> state_;
};

}  // namespace fusedopt

template <>
struct std::tuple_size<fusedopt::NamedTensor> : std::integral_constant<std::size_t, 2> {};

template <std::size_t I>
struct std::tuple_element<I, fusedopt::NamedTensor> : std::tuple_element<I, std::tuple<std::string, fusedopt::Tensor>> {
};
