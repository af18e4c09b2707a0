// What a MultiOptimizer keeps: its optimizers, and where each variable and each gradient goes. multi_state.cpp makes,
// reads and loads it, multi_step.cpp advances it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/multi_optimizer.hpp>

#include "engine/ranks.hpp"
#include "engine/stepping.hpp"
#include "runtime/mutex.hpp"

namespace fusedopt {

struct MultiOptimizer::State {
    State(std::vector<std::shared_ptr<Optimizer>> optimizers, std::optional<double> loss_scale_factor,
          std::optional<double> global_clipnorm, bool skip_nonfinite);

    /// Shares all of it out to ranks.
    void shard(Communicator communicator, bool average);

    void build(std::span<const Tensor> tensors, std::span<const std::size_t> assignment,
               std::span<const std::string> names);
    void rebind(std::span<const Tensor> tensors, std::optional<std::int64_t> builds_then);
    bool step(Gradients gradients, const Optimizer::Choice& choice, const Scaling& scaling);
    void set_options(std::optional<double> loss_scale_factor, std::optional<double> global_clipnorm,
                     bool skip_nonfinite);
    void set_loss_scale_factor(std::optional<double> factor);
    void require_built(const char* function) const;
    void require_not_stepping(const char* function) const;
    std::vector<NamedTensor> listed(Listing listing);
    void append_to(Listing& listing);
    void load(Listing listing, std::span<const Tensor> values);
    void require_loadable() const;
    std::vector<std::vector<double>> numbers_after(const Loading& loading) const;  // of each optimizer
    void settle(const Loading& loading, const std::vector<std::vector<double>>& loaded_numbers) noexcept;
    void between_steps(const std::function<void()>& function) const;
    void catch_up();
    void catch_up(const Tensor& variable, const Tensor& indices);
    void catch_up_all();
    void finalize(std::span<const Tensor> tensors);
    void begin_evaluation();
    void end_evaluation();
    bool is_any_evaluating() const;

    std::vector<std::shared_ptr<Optimizer>> optimizers;
    double loss_scale_factor = 1.0;
    std::optional<double> global_clipnorm;
    bool skip_nonfinite = false;
    Takeovers takeovers;  // from these optimizers together
    std::int64_t skipped_steps = 0;
    std::optional<double> global_norm;
    std::int64_t calls = 0;
    double learning_rate = 0.0;  // Keras stores one that is never used
    bool is_built = false;
    std::int64_t builds = 0;
    bool is_evaluating = false;
    std::shared_ptr<Ranks> ranks;  // those of every optimizer, if they are sharded
    mutable Mutex mutex;

private:
    /// An optimizer's part of a call.
    struct Part {
        std::vector<Gradient> gradients;
        std::vector<std::size_t> indices;  // which of its variables they are for
        std::size_t count;                 // how many of both belong to the call
        double factor;                     // on its sums of squares, in a norm; 0: it has no part in it
    };

    /// What build makes before it changes anything.
    struct Construction {
        std::vector<Place> places;
        std::vector<Part> parts;
        std::vector<Participant> participants;
        std::vector<Optimizer::State::Construction> optimizers;
    };

    /// Holds every optimizer's lock.
    class Locks {
    public:
        explicit Locks(std::span<Optimizer* const> optimizers);
        ~Locks();
        Locks(const Locks&) = delete;
        Locks& operator=(const Locks&) = delete;

    private:
        Locks() = default;

        std::span<Optimizer* const> held_;
    };

    Locks lock_all() const { return Locks(in_lock_order); }
    std::vector<const Variable*> built_variables() const;
    std::vector<Place> assigned(const Given& given, std::span<const std::size_t> assignment) const;
    Construction construct(const Given& given, std::vector<Place> new_places, const Ranks::Cut& cut) const;
    void adopt(Construction&& made) noexcept;
    bool step_own(Gradients gradients, const Optimizer::Choice& choice, const Scaling& scaling);  // of this rank
    void count_skipped_step();
    bool can_skip() const;
    std::optional<double> measured_norm();
    Place place_of(const char* function, const Tensor& tensor) const;
    Place place_at(std::size_t position, const Optimizer::Choice& choice) const;
    void check_apart(const Tensor& gradient, std::size_t owner) const;

    std::vector<Optimizer*> in_lock_order;
    std::shared_ptr<Takeover> takeover =
        std::make_shared<Takeover>(Takeover{"MultiOptimizer", "loss_scale_factor"});  // from each of them
    std::vector<Place> places;

    // Of the step in progress; kept, so that a step allocates nothing.
    std::vector<Part> parts;
    std::vector<Participant> participants;
};

}  // namespace fusedopt
