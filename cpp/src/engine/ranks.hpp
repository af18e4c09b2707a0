// A sharded optimizer: which elements are whose, and what ranks exchange in a step. Nothing else knows of ranks. To
// its State, each variable is the piece of it that this rank has.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fusedopt/optimizer.hpp>
#include <fusedopt/sharding.hpp>

#include "engine/agreement.hpp"
#include "engine/given.hpp"
#include "engine/plan.hpp"

namespace fusedopt {

struct Scaling;

class Ranks {
public:
    Ranks(Communicator communicator, bool average);

    /// Those of a sharded optimizer; refuses another.
    static Ranks& of(const Optimizer::State& state);

    /// Refuses a rule or options that cannot be shared out.
    static void require_shardable(const Optimizer::State& state);

    void build(Optimizer::State& state, std::span<const Tensor> tensors, std::span<const std::string> names);
    void rebind(Optimizer::State& state, std::span<const Tensor> tensors, std::optional<std::int64_t> builds_then);
    bool step(Optimizer::State& state, Gradients gradients, const Optimizer::Choice& choice, const Scaling& scaling);
    void finalize(Optimizer::State& state, std::span<const Tensor> tensors);
    void begin_evaluation(Optimizer::State& state);
    void end_evaluation(Optimizer::State& state);

    void agree(const std::string& operation, const std::string& facts, const std::string& error);
    std::int64_t agreements() const { return agreement_.count(); }
    std::vector<std::int64_t> borders(std::size_t variable) const;

private:
    struct Piece {
        std::int64_t begin;
        std::int64_t end;
        std::int64_t size() const { return end - begin; }
    };

    /// What of a variable goes in one window.
    struct Part {
        std::size_t variable;
        Piece piece;
    };

    /// Memory for an exchange, and how to wait for it.
    struct Exchange {
        std::vector<std::byte> send, receive;
        std::vector<std::int64_t> send_counts, receive_counts;
        Communicator::Wait wait;

        void finish() {
            if (const Communicator::Wait last = std::exchange(wait, {})) last();
        }
    };

    void require_whole(const char* function) const;
    Piece piece(std::size_t variable, std::size_t rank) const;
    Piece own(std::size_t variable) const { return piece(variable, agreement_.rank()); }
    std::vector<Tensor> pieces_of(std::span<const Tensor> tensors) const;
    std::vector<const Variable*> whole_variables() const;
    std::size_t index_of(const char* function, const Tensor& tensor) const;
    void require_variables(const char* function, std::span<const Tensor> tensors) const;

    void take(const Optimizer::State& state, Gradients gradients, const Optimizer::Choice& choice);
    void check_gradient(std::size_t index, const Tensor& gradient, const Tensor* rows) const;
    void reserve_sums();
    void sum_all_gradients();
    void exchange_squares(const Optimizer::State& state);
    void write(Optimizer::State& state, bool is_summed, bool gives_weights);
    void exchange_all_weights();

    // Windows. While one is under way, the one before it is finished.
    void choose_exchanged(std::vector<char> is_exchanged);
    void plan_windows();
    std::int64_t room() const;
    void reserve_exchanges(std::int64_t item_bytes);
    void send_gradients(std::size_t window);
    void sum_gradients(std::size_t window);
    void send_weights(std::size_t window);
    void take_weights(std::size_t window);
    std::int64_t gradient_bytes(const Part& part) const;
    std::int64_t weight_bytes(const Part& part) const;
    std::byte* weights_at(const Part& part, std::int64_t element) const;
    template <class Bytes, class Work>
    void run_on(std::span<const Part> parts, const Bytes& bytes_of, const Work& work);

    /// Behind the last variable of which a rank has a piece.
    std::size_t end_of(std::size_t rank) const { return std::min(borders_[rank + 1].variable + 1, variables_.size()); }

    Agreement agreement_;
    bool average_;
    bool is_torn_ = false;  // weights were written, and an exchange has failed
    std::vector<Variable> variables_;
    std::vector<SweepPlan::Border> borders_;

    std::vector<char> is_exchanged_;                       // whether a variable takes part,
    std::vector<std::vector<std::vector<Part>>> windows_;  // and what each window has of each rank

    // Of the call in progress.
    std::vector<Tensor> gradients_;  // whole
    std::vector<Tensor> pieces_;     // of the summed gradients
    std::vector<std::byte> sums_;    // their memory
    std::vector<double> squares_, all_squares_, sums_of_squares_;
    std::array<Exchange, 2> gradient_exchanges_, weight_exchanges_;
    SweepPlan part_plan_;
    std::vector<std::int64_t> offsets_;
};

}  // namespace fusedopt
