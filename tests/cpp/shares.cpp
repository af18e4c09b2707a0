// Which elements are whose: equal shares at borders of tiles, and what is not cut dealt out by its cost.
#include <algorithm>
#include <vector>

#include "check.hpp"
#include "engine/shares.hpp"

namespace {

using fusedopt::Cost;
using fusedopt::Piece;
using fusedopt::Shares;

constexpr std::int64_t tile = 1024;

/// A variable that is cut, or one whose cost is the square of its elements.
struct Given {
    std::int64_t elements;
    bool is_whole = false;
};

double squared(const fusedopt::Tensor& tensor) {
    return fusedopt::elements_of(tensor) * fusedopt::elements_of(tensor);
}

Shares shared(const std::vector<Given>& given, std::size_t ranks, std::vector<std::size_t> built = {},
              const Shares& old = {}) {
    static float memory;
    std::vector<fusedopt::Variable> variables;
    std::vector<Cost> costs;
    for (const auto& [elements, is_whole] : given) {
        const fusedopt::Tensor tensor(&memory, DType::float32, std::vector{elements});
        variables.push_back({nullptr, DType::float32, true, 0, tensor, "", false});
        costs.push_back(is_whole ? squared : nullptr);
    }
    built.resize(given.size(), fusedopt::unknown);
    return Shares(variables, costs, ranks, built, old);
}

std::vector<std::int64_t> loads(const Shares& shares, std::size_t ranks) {
    std::vector<std::int64_t> all(ranks);
    for (std::size_t k = 0; k < ranks; ++k) {
        for (const Piece& piece : shares.of(k)) all[k] += piece.size();
    }
    return all;
}

/// Checks that every element is one rank's, in the order of ranks, and that borders are tiles'.
void check_cut(const Shares& shares, const std::vector<Given>& given, std::size_t ranks) {
    for (std::size_t i = 0; i < given.size(); ++i) {
        std::int64_t next = 0;
        for (std::size_t k = 0; k < ranks; ++k) {
            const Piece piece = shares.piece(i, k);
            if (piece.size() == 0) continue;
            CHECK_EQUAL(piece.begin, next);
            CHECK(piece.begin % tile == 0);
            next = piece.end;
            CHECK(!given[i].is_whole || piece.size() == given[i].elements);
        }
        CHECK_EQUAL(next, given[i].elements);
    }
}

}  // namespace

TEST(shares_are_equal) {
    const std::vector<std::vector<Given>> all{
        {{1'000'000}, {7}, {0}, {123'457}},
        {{tile}, {tile}, {1}},
        {{5}},
        {},
        {{300'000, true}, {299'999, true}, {90'000, true}, {0, true}, {800'000}},
    };
    for (const std::vector<Given>& given : all) {
        std::int64_t total = 0;
        for (const Given& each : given) total += each.elements;
        for (std::size_t ranks = 1; ranks <= 3; ++ranks) {
            const Shares shares = shared(given, ranks);
            check_cut(shares, given, ranks);
            for (const std::int64_t load : loads(shares, ranks)) {
                CHECK(std::abs(load - total / static_cast<std::int64_t>(ranks)) <= tile);
            }
        }
    }
}

TEST(what_cannot_be_level_is_filled_from_below) {
    const Shares shares = shared({{100'000, true}, {10'240, true}, {40'960}}, 3);
    CHECK(loads(shares, 3) == (std::vector<std::int64_t>{100'000, 25'600, 25'600}));
}

TEST(the_costliest_go_first_to_whoever_has_least) {
    const Shares shares = shared({{10, true}, {70, true}, {60, true}, {50, true}, {40, true}}, 2);
    CHECK(loads(shares, 2) == (std::vector<std::int64_t>{70 + 40, 60 + 50 + 10}));
}

TEST(what_is_built_stays_and_what_is_new_fills_up) {
    const Shares old = shared({{50'000, true}, {10'000}}, 2);
    CHECK(loads(old, 2) == (std::vector<std::int64_t>{50'000, 10'000}));
    const std::vector<Given> given{{90'000}, {10'000}, {50'000, true}, {30'000, true}};
    const Shares shares = shared(given, 2, {fusedopt::unknown, 1, 0, fusedopt::unknown}, old);
    check_cut(shares, given, 2);
    CHECK_EQUAL(shares.piece(1, 1).size(), 10'000);
    CHECK_EQUAL(shares.piece(2, 0).size(), 50'000);
    CHECK_EQUAL(shares.piece(3, 1).size(), 30'000);
    for (const std::int64_t load : loads(shares, 2)) CHECK(std::abs(load - 90'000) <= tile);
}
