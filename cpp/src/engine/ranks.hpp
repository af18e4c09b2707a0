// A sharded optimizer, or several that are stepped as one: what ranks exchange in a call. Only Shares, which tells
// whose an element is, knows of ranks, too. To the states, each variable is the piece of it that this rank has.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fusedopt/optimizer.hpp>
#include <fusedopt/sharding.hpp>

#include "engine/agreement.hpp"
#include "engine/given.hpp"
#include "engine/shares.hpp"
#include "engine/state.hpp"

namespace fusedopt {

struct Participant;

class Ranks {
public:
    /// The states are those of all optimizers that are stepped together, and outlive every call.
    Ranks(Communicator communicator, bool average, std::vector<Optimizer::State*> states);

    /// Those of a sharded optimizer; refuses another.
    static Ranks& of(Ranks* ranks);

    /// Refuses options that cannot be shared out.
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
    void write(std::span<const Participant> participants);

    std::vector<const Variable*> whole_variables() const;
    std::vector<Tensor> pieces_of(std::span<const Tensor> tensors) const;
    void move_to(const Given& given);

    /// Which of an optimizer's variables this is, or `unknown`.
    std::size_t find(const Optimizer::State& state, const Tensor& tensor) const;

    void agree(const std::string& operation, const std::string& facts, const std::string& error);
    std::int64_t agreements() const { return agreement_.count(); }
    std::vector<std::int64_t> borders(std::size_t variable) const;
    std::vector<std::int64_t> piece_shape(std::size_t variable) const;

private:
    /// Memory for an exchange, and how to wait for it.
    struct Exchange {
        std::vector<std::byte> send, receive;
        std::span<std::byte> received = {};  // in `receive`, or where it belongs
        std::vector<std::int64_t> send_counts, receive_counts;
        Communicator::Wait wait;

        void finish() {
            if (const Communicator::Wait last = std::exchange(wait, {})) last();
        }
    };

    void require_whole(const char* function) const;
    Piece own(std::size_t variable) const { return shares_.piece(variable, agreement_.rank()); }
    bool is_variable(std::size_t index, const Tensor& tensor) const;
    std::size_t index_of(std::size_t position, const Tensor& tensor) const;
    const Optimizer::State& state_of(std::size_t variable) const { return *states_[places_[variable].optimizer]; }

    /// Calls function(state) for each state, whose facts are its own.
    template <class Function>
    void for_each_state(Facts& facts, const Function& function) const {
        for (std::size_t k = 0; k < states_.size(); ++k) {
            if (states_.size() > 1) facts.turn_to(k);
            function(*states_[k]);
        }
        facts.turn_to(unknown);
    }

    void cut(const Given& given, std::span<Optimizer::State::Layout> layouts, std::span<const Place> places,
             Facts& facts);
    std::vector<Cost> costs() const;
    void take(std::int64_t builds, const Gradients& gradients, const Optimizer::Choice& choice);
    void reserve_sums();
    void sum_all_gradients();
    bool sums_while_writing(const Scaling& scaling) const;
    void exchange_squares(const Scaling& scaling);
    void step_by_windows(Optimizer::State& state, bool gives_weights);
    void exchange_weights(std::vector<char> is_exchanged);

    // Windows. While one is under way, the one before it is finished.
    void choose_exchanged(std::vector<char> is_exchanged);
    void plan_windows();
    std::int64_t room() const;
    void reserve_exchanges(std::int64_t item_bytes);
    void send_gradients(std::size_t window);
    void sum_gradients(std::size_t window);
    void send_weights(std::size_t window);
    void swap_weights(std::size_t window, std::span<const std::byte> send);
    void take_weights(std::size_t window);
    std::int64_t gradient_bytes(const Piece& piece) const;
    const std::byte* gradient_in_place(const Piece& piece) const;
    std::int64_t weight_bytes(const Piece& piece) const;
    std::byte* weights_at(const Piece& piece, std::int64_t element) const;
    template <class Bytes, class Work>
    void run_on(std::span<const Piece> pieces, const Bytes& bytes_of, const Work& work);

    Agreement agreement_;
    bool average_;
    bool is_torn_ = false;  // weights were written, and an exchange has failed
    std::vector<Optimizer::State*> states_;
    std::vector<Variable> variables_;  // whole
    std::vector<Place> places_;        // of the variables
    std::vector<Range> ranges_;        // of their memory
    Shares shares_;

    std::vector<char> is_exchanged_;                        // whether a variable takes part,
    std::vector<std::vector<std::vector<Piece>>> windows_;  // and what each window has of each rank

    // Of the call in progress.
    std::vector<Tensor> gradients_;   // whole
    std::vector<char> is_given_;      // whether the call names a variable
    std::vector<std::size_t> given_;  // those that it names, unless it names all
    std::vector<Tensor> pieces_;      // of the summed gradients
    std::vector<Tensor> sums_;        // those of the variables that the call names
    std::vector<std::byte> memory_;   // of the pieces
    bool is_summed_ = true;           // or the pieces are summed when they are swept
    std::vector<double> squares_, all_squares_;
    std::array<Exchange, 2> gradient_exchanges_, weight_exchanges_;
    SweepPlan part_plan_;
    std::vector<std::int64_t> offsets_;
};

}  // namespace fusedopt
