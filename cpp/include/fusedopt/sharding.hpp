// How the ranks of a program exchange bytes. The core knows no MPI: the program hands over functions.
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
struct Communicator {
    using Counts = std::span<const std::int64_t>;

    int rank = 0;  // this one, from 0
    int size = 1;

    /// Sends a part of `send` to each rank, and receives a part of `receive` from each.
    std::function<void(std::span<const std::byte> send, Counts send_counts, std::span<std::byte> receive,
                       Counts receive_counts)>
        alltoallv;

    /// Sends all of `send` to each rank, and receives a part of `receive` from each.
    std::function<void(std::span<const std::byte> send, std::span<std::byte> receive, Counts counts)> allgatherv;
};

}  // namespace fusedopt
