// Which elements of a sharded optimizer are whose. Variables that only one rank can update are dealt out by their cost.
// All others together are one line of elements. It is cut at borders of tiles, so that ranks have equally many in all.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "engine/given.hpp"
#include "rules/rule.hpp"

namespace fusedopt {

/// Elements of a variable.
struct Piece {
    std::size_t variable;
    std::int64_t begin;
    std::int64_t end;

    std::int64_t size() const { return end - begin; }
};

class Shares {
public:
    Shares() = default;

    /// `costs` are those of the variables' branches. A variable that was `built` stays where it is in `old`. All ranks
    /// compute the same.
    Shares(std::span<const Variable> variables, std::span<const Cost> costs, std::size_t ranks,
           std::span<const std::size_t> built, const Shares& old);

    /// In the order of variables, without empty ones.
    std::span<const Piece> of(std::size_t rank) const { return pieces_[rank]; }

    /// Empty, if the rank has nothing of the variable.
    Piece piece(std::size_t variable, std::size_t rank) const;

    /// Whether the variable is not to be cut.
    bool is_whole(std::size_t variable) const { return is_whole_[variable]; }

private:
    std::vector<std::vector<Piece>> pieces_;  // of each rank
    std::vector<char> is_whole_;
};

}  // namespace fusedopt
