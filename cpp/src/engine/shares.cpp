// Who gets which elements: variables that are not cut by what they cost, and then all others to level the ranks.
#include "engine/shares.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

#include "engine/plan.hpp"

namespace fusedopt {
namespace {

struct Load {
    double cost = 0.0;
    std::int64_t elements = 0;
};

/// So many elements more for each rank that all have equally many, or the nearest to that: poured in, they fill the
/// lowest first.
std::vector<std::int64_t> poured(std::span<const Load> loads, std::int64_t elements) {
    std::vector<std::size_t> lowest(loads.size());
    std::iota(lowest.begin(), lowest.end(), std::size_t{0});
    std::ranges::stable_sort(lowest, {}, [&](std::size_t k) { return loads[k].elements; });
    std::int64_t sum = elements;  // of the ranks that get some
    std::size_t count = 0;
    while (count < lowest.size()) {
        const std::int64_t next = loads[lowest[count]].elements;
        if (count > 0 && next * static_cast<std::int64_t>(count) >= sum) break;
        sum += next;
        ++count;
    }
    std::vector<std::int64_t> more(loads.size(), 0);
    std::ranges::sort(lowest.begin(), lowest.begin() + static_cast<std::ptrdiff_t>(count));
    for (std::size_t j = 0; j < count; ++j) {
        const auto ranks = static_cast<std::int64_t>(count);
        const std::int64_t level = sum / ranks + (static_cast<std::int64_t>(j) < sum % ranks ? 1 : 0);
        more[lowest[j]] = level - loads[lowest[j]].elements;
    }
    return more;
}

}  // namespace

Shares::Shares(std::span<const Variable> variables, std::span<const Cost> costs, std::size_t ranks,
               std::span<const std::size_t> built, const Shares& old)
    : pieces_(ranks) {
    struct Whole {
        std::size_t variable;
        double cost;
    };
    std::vector<Load> loads(ranks);
    std::vector<Whole> wholes;
    SweepPlan line;
    for (std::size_t i = 0; i < variables.size(); ++i) {
        const Tensor& tensor = variables[i].tensor;
        is_whole_.push_back(costs[i] != nullptr);
        if (tensor.size() == 0) continue;
        const double cost = costs[i] ? costs[i](tensor) : 0.0;
        if (built[i] == unknown) {
            costs[i] ? wholes.push_back({i, cost}) : line.add(i, tensor.size());
            continue;
        }
        for (std::size_t k = 0; k < ranks; ++k) {
            const Piece piece = old.piece(built[i], k);
            if (piece.size() == 0) continue;
            pieces_[k].push_back({i, piece.begin, piece.end});
            loads[k].cost += cost;
            loads[k].elements += piece.size();
        }
    }
    std::ranges::stable_sort(wholes, std::greater<>(), &Whole::cost);
    for (const Whole& whole : wholes) {
        const auto least = std::ranges::min_element(loads, {}, &Load::cost);
        const std::int64_t size = variables[whole.variable].tensor.size();
        least->cost += whole.cost;
        least->elements += size;
        pieces_[static_cast<std::size_t>(least - loads.begin())].push_back({whole.variable, 0, size});
    }
    const std::vector<std::int64_t> more = poured(loads, line.elements());
    std::int64_t passed = 0;
    for (std::size_t k = 0; k < ranks; ++k) {
        const SweepPlan::Border begin = line.border(passed), end = line.border(passed + more[k]);
        passed += more[k];
        for (std::size_t i = begin.variable; i < variables.size() && i <= end.variable; ++i) {
            if (is_whole_[i] || built[i] != unknown) continue;
            const Piece piece{i, i == begin.variable ? begin.element : 0,
                              i == end.variable ? end.element : variables[i].tensor.size()};
            if (piece.size() > 0) pieces_[k].push_back(piece);
        }
        std::ranges::sort(pieces_[k], {}, &Piece::variable);
    }
}

Piece Shares::piece(std::size_t variable, std::size_t rank) const {
    const auto found = std::ranges::lower_bound(pieces_[rank], variable, {}, &Piece::variable);
    return found != pieces_[rank].end() && found->variable == variable ? *found : Piece{variable, 0, 0};
}

}  // namespace fusedopt
