// How the ranks of a program exchange bytes. The core knows no MPI: the program hands over functions.
//
// With Optimizer::shard, or that of a MultiOptimizer, each rank builds the same variables with the same values, and
// gives gradients of its own to `apply`. They are summed in a tree over the ranks, and the weights have the bits of a
// single optimizer that gets the sum. Each rank keeps state for its share of all elements alone: `variables` and
// `state` list one-dimensional pieces, which are empty if a rank has nothing of a variable. Variables that a rule must
// have as a whole are one rank's. There they are listed in their shape, and Muon's products are asked for. On the
// others they have no extent.
//
// Ranks must call build, apply, finalize_variable_values, begin_evaluation and end_evaluation alike, as each waits for
// the others. What one of them refuses is a std::invalid_argument on all, and nothing is written. So are calls,
// gradients' types, options and scalars that differ, and calls in another thread than the first one. If the
// communicator throws after weights were written, later calls are refused.
//
// Refused are RowUpdates::caught_up, gradients of rows, calls of the members of a sharded MultiOptimizer, and calls in
// a forked child.
//
// Building again adds variables. The old ones stay with their ranks, and the new ones level what the ranks have.
#pragma once

#include <fusedopt/language.hpp>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace fusedopt {

/// A group of ranks, each with an optimizer of its own, that take every step together. A rank is a process, or a
/// thread.
///
/// All ranks of the group must call each function as often, and in the same order. Counts are bytes, one for each rank.
/// What is for or from a rank lies behind what is for or from the rank before it.
///
/// A function may return before its exchange is over, with a function that waits for it. Until then memory and counts
/// stay as they are, and other exchanges begin. So an optimizer computes while bytes are under way. An exchange that is
/// over at once returns an empty function.
struct Communicator {
    using Counts = std::span<const std::int64_t>;
    using Wait = std::function<void()>;

    int rank = 0;  // this one, from 0
    int size = 1;

    /// Sends a part of `send` to each rank, and receives a part of `receive` from each.
    std::function<Wait(std::span<const std::byte> send, Counts send_counts, std::span<std::byte> receive,
                       Counts receive_counts)>
        alltoallv;

    /// Sends all of `send` to each rank, and receives a part of `receive` from each.
    std::function<Wait(std::span<const std::byte> send, std::span<std::byte> receive, Counts counts)> allgatherv;
};

}  // namespace fusedopt
