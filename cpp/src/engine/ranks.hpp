// A sharded optimizer, or several that are stepped as one: which elements are whose, and what ranks exchange in a call.
// Nothing else knows of ranks. To the states, each variable is the piece of it that this rank has.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/optimizer.hpp>
#include <fusedopt/sharding.hpp>

#include "engine/agreement.hpp"
#include "engine/given.hpp"
#include "engine/state.hpp"

namespace fusedopt {

struct Participant;

class Ranks {
public:
    /// The states are those of all optimizers that are stepped together, and outlive every call.
    Ranks(Communicator communicator, bool average, std::vector<Optimizer::State*> states);

    /// Those of a sharded optimizer; refuses another.
    static Ranks& of(Ranks* ranks);

    /// Refuses a rule or options that cannot be shared out.
    static void require_shardable(const Optimizer::State& state);

    // Calls on all ranks, or in this process alone if there are none.

    /// Turns what is laid out on whole variables, of each optimizer, to the pieces of this rank. Without `places` there
    /// is one optimizer. None: there are no ranks.
    using Cut = std::function<void(const Given& given, std::span<Optimizer::State::Layout> layouts,
                                   std::span<const Place> places)>;

    /// Makes what is built, and changes nothing.
    static void build(Ranks* ranks, const std::function<void(const Cut& cut)>& make);

    /// Checks a call, then writes variables and says whether it has. A call that mends goes on after a failed exchange.
    static void together(Ranks* ranks, const char* operation, const std::function<void()>& check,
                         const std::function<bool()>& write, bool mends = false);

    // A step. First, the sums of all ranks' gradients over this rank's pieces, for whom they are; false if no rank
    // gives any. `check` is what may refuse the call, and adds what must be the same.
    bool sum(const Gradients& gradients, const Optimizer::Choice& choice, std::int64_t builds, const Scaling& scaling,
             const std::function<void(Facts&)>& check);
    std::span<const Tensor> sums() const { return sums_; }
    Optimizer::Choice choice() const;

    // Then its phases. Sums of squares are over all ranks after measure().
    bool measure(std::span<const Participant> participants, const std::function<bool()>& function);
    void evaluate(std::span<const Participant> participants, const std::function<void()>& function);
    void exchange_stepped(std::span<const Participant> participants);

    std::vector<const Variable*> whole_variables() const;
    std::vector<Tensor> pieces_of(std::span<const Tensor> tensors) const;
    void move_to(const Given& given);

    /// Which of an optimizer's variables this is, or `unknown`.
    std::size_t find(const Optimizer::State& state, const Tensor& tensor) const;

    void agree(const std::string& operation, const std::string& facts, const std::string& error);
    std::int64_t agreements() const { return agreement_.count(); }
    std::vector<std::int64_t> borders(std::size_t variable) const;

private:
    struct Piece {
        std::int64_t begin;
        std::int64_t end;
        std::int64_t size() const { return end - begin; }
    };

    /// How far the elements of a rank have been exchanged.
    struct Cursor {
        std::size_t variable;
        std::int64_t element;
    };

    void require_whole(const char* function) const;
    Piece piece(std::size_t variable, std::size_t rank) const;
    Piece own(std::size_t variable) const { return piece(variable, agreement_.rank()); }
    std::size_t index_of(const char* function, const Tensor& tensor) const;
    const Optimizer::State& state_of(std::size_t variable) const { return *states_[places_[variable].optimizer]; }

    /// Calls function(state) for each state, whose facts are its own.
    template <class Function>
    void for_each_state(Facts& facts, const Function& function) const;

    void cut(const Given& given, std::span<Optimizer::State::Layout> layouts, std::span<const Place> places,
             Facts& facts);
    void cut_new(std::span<const std::size_t> built, std::span<const std::vector<std::int64_t>> old_borders);
    void take(std::int64_t builds, const Gradients& gradients, const Optimizer::Choice& choice);
    void sum_gradients();
    void exchange_windows_of_gradients();
    void exchange_squares(const Scaling& scaling);
    void exchange_weights();
    void exchange_all_weights();

    void begin_windows();
    std::int64_t windows() const;
    template <class Visit>
    std::int64_t walk(std::size_t rank, Cursor& cursor, const Visit& visit) const;

    Agreement agreement_;
    bool average_;
    bool is_torn_ = false;  // weights were written, and an exchange of them has failed
    std::vector<Optimizer::State*> states_;
    std::vector<Variable> variables_;                 // whole
    std::vector<Place> places_;                       // of the variables
    std::vector<std::vector<std::int64_t>> borders_;  // of each variable: of rank k those from [k] to [k + 1]

    std::vector<Range> ranges_;  // of the variables

    // Of the call in progress.
    std::vector<Tensor> gradients_;   // whole
    std::vector<char> is_given_;      // whether the call names a variable
    std::vector<std::size_t> given_;  // those that it names, unless it names all
    std::vector<char> is_exchanged_;  // whether a variable takes part
    std::vector<Tensor> pieces_;      // of the summed gradients
    std::vector<Tensor> sums_;        // those of the variables that the call names
    std::vector<std::byte> memory_;   // of the pieces
    std::vector<double> squares_, all_squares_;
    std::vector<std::byte> send_, receive_;
    std::vector<std::int64_t> send_counts_, receive_counts_;
    std::vector<Cursor> cursors_;
};

}  // namespace fusedopt
