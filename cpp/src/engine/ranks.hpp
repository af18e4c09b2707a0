// A sharded optimizer: what ranks exchange in a step. Only Shares, which tells whose an element is, knows of ranks,
// too. To the State, each variable is the piece of it that this rank has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/optimizer.hpp>
#include <fusedopt/sharding.hpp>

#include "engine/agreement.hpp"
#include "engine/given.hpp"
#include "engine/shares.hpp"

namespace fusedopt {

struct Scaling;

class Ranks {
public:
    Ranks(Communicator communicator, bool average);

    /// Those of a sharded optimizer; refuses another.
    static Ranks& of(const Optimizer::State& state);

    /// Refuses options that cannot be shared out.
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
    /// How far the elements of a rank have been exchanged.
    struct Cursor {
        std::size_t piece;
        std::int64_t element;
    };

    void require_whole(const char* function) const;
    Piece own(std::size_t variable) const { return shares_.piece(variable, agreement_.rank()); }
    std::vector<std::int64_t> shape_of_own(std::size_t variable) const;
    std::vector<Tensor> pieces_of(std::span<const Tensor> tensors) const;
    std::vector<const Variable*> whole_variables() const;
    std::size_t index_of(const char* function, const Tensor& tensor) const;
    void require_variables(const char* function, std::span<const Tensor> tensors) const;

    void take(const Optimizer::State& state, Gradients gradients, const Optimizer::Choice& choice);
    void check_gradient(std::size_t index, const Tensor& gradient, const Tensor* rows) const;
    void sum_gradients();
    void exchange_windows_of_gradients();
    void exchange_squares(const Optimizer::State& state);
    void exchange_weights();
    void exchange_all_weights();

    void begin_windows();
    std::int64_t windows() const;
    template <class Visit>
    std::int64_t walk(std::size_t rank, Cursor& cursor, const Visit& visit) const;

    Agreement agreement_;
    bool average_;
    bool is_torn_ = false;  // weights were written, and an exchange of them has failed
    std::vector<Variable> variables_;
    Shares shares_;

    // Of the call in progress.
    std::vector<Tensor> gradients_;   // whole
    std::vector<char> is_exchanged_;  // whether a variable takes part
    std::vector<Tensor> pieces_;      // of the summed gradients
    std::vector<std::byte> sums_;     // their memory
    std::vector<double> squares_, all_squares_, sums_of_squares_;
    std::vector<std::byte> send_, receive_;
    std::vector<std::int64_t> send_counts_, receive_counts_;
    std::vector<Cursor> cursors_;
};

}  // namespace fusedopt
