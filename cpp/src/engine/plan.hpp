// Splits a sweep over variables of any sizes among threads, by elements and at tile borders.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "kernel/kernel.hpp"
#include "runtime/threads.hpp"

namespace fusedopt {

/// The variables a sweep visits, with the number of elements that come before each.
class SweepPlan {
public:
    void reserve(std::size_t count) {
        variables_.reserve(count);
        first_.reserve(count);
    }

    void clear() {
        variables_.clear();
        first_.clear();
        total_ = 0;
    }

    void add(std::size_t variable, std::int64_t elements) {
        if (elements == 0) return;
        variables_.push_back(variable);
        first_.push_back(total_);
        total_ += elements;
    }

    std::size_t size() const { return variables_.size(); }
    std::int64_t elements() const { return total_; }
    int threads() const { return threads_for(total_); }

    /// A place between two elements of the sweep.
    struct Border {
        std::size_t variable;
        std::int64_t element;
    };

    /// The tile border at or after an element of the sweep; behind everything from the number of elements on.
    Border border(std::int64_t element) const {
        const Cut at = cut(element);
        if (at.position < variables_.size()) return {variables_[at.position], at.element};
        return {static_cast<std::size_t>(-1), 0};
    }

    /// How many elements of the sweep come before one of a variable, whether or not that is a part of it.
    std::int64_t before(std::size_t variable, std::int64_t element) const {
        const auto at = std::ranges::lower_bound(variables_, variable);
        if (at == variables_.end()) return total_;
        return first_[static_cast<std::size_t>(at - variables_.begin())] + (*at == variable ? element : 0);
    }

    /// Calls piece(variable, begin, end) until every element of every variable has been covered once.
    template <class Piece>
    void run(const Piece& piece) const {
        run_shares(threads(), whole(), [&](Cut begin, Cut end) {
            for (std::size_t i = begin.position; i <= end.position; ++i) {
                const std::int64_t from = i == begin.position ? begin.element : 0;
                const std::int64_t to = i == end.position ? end.element : size_of(i);
                if (from < to) piece(variables_[i], from, to);
            }
        });
    }

    /// Elements of the sweep, from one tile border to another.
    struct Part {
        std::int64_t begin;
        std::int64_t end;
        std::int64_t elements() const { return end - begin; }
    };
    Part whole() const { return {0, total_}; }

    /// The same of a part, but sweep(stretch) for variables that follow each other.
    template <class Sweep>
    void run_stretches(int threads, Part part, std::span<const kernel::Job> jobs, const Sweep& sweep) const {
        run_shares(threads, part, [&](Cut begin, Cut end) {
            for (std::size_t i = begin.position; i <= end.position;) {
                std::size_t last = is_gapless() ? end.position : i;
                while (last < end.position && variables_[last + 1] == variables_[last] + 1) ++last;
                sweep(kernel::Stretch{&jobs[variables_[i]], &jobs[variables_[last]],
                                      i == begin.position ? begin.element : 0,
                                      last == end.position ? end.element : size_of(last)});
                i = last + 1;
            }
        });
    }

    template <class Sweep>
    void run_stretches(int threads, std::span<const kernel::Job> jobs, const Sweep& sweep) const {
        run_stretches(threads, whole(), jobs, sweep);
    }

private:
    struct Cut {
        std::size_t position;
        std::int64_t element;
    };

    /// Calls share(begin, end) for parts of the sweep; `end` lies in the last variable of its share.
    template <class Share>
    void run_shares(int threads, Part part, const Share& share) const {
        const std::int64_t total = part.elements();
        if (total == 0) return;
        const std::int64_t count = shares_for(threads, total);
        run_on_threads(threads, count, [&](std::int64_t k) {
            const Cut begin = cut(part.begin + total / count * k + std::min(k, total % count));
            Cut end = cut(part.begin + total / count * (k + 1) + std::min(k + 1, total % count));
            if (end.position == variables_.size()) end = {end.position - 1, size_of(end.position - 1)};
            if (begin.position < variables_.size()) share(begin, end);
        });
    }

    bool is_gapless() const { return variables_.back() - variables_.front() + 1 == variables_.size(); }

    std::int64_t size_of(std::size_t position) const {
        return (position + 1 < first_.size() ? first_[position + 1] : total_) - first_[position];
    }

    // The tile border at or after an element of the sweep.
    Cut cut(std::int64_t element) const {
        if (element >= total_) return {variables_.size(), 0};
        const auto next = std::upper_bound(first_.begin(), first_.end(), element);
        const auto position = static_cast<std::size_t>(next - first_.begin()) - 1;
        const std::int64_t within = element - first_[position];
        const std::int64_t border = (within + kernel::tile - 1) / kernel::tile * kernel::tile;
        return {position, std::min(border, size_of(position))};
    }

    std::vector<std::size_t> variables_;
    std::vector<std::int64_t> first_;
    std::int64_t total_ = 0;
};

/// Runs sweep(job, stretch) for each bit of a part whose jobs take the same kernel; `job` stands for all.
template <class Sweep>
void run_kinds(const SweepPlan& plan, int threads, SweepPlan::Part part, std::span<const kernel::Job> jobs,
               const Sweep& sweep) {
    const auto is_same = [](const kernel::Job& a, const kernel::Job& b) {
        return a.work == b.work && a.branch == b.branch && a.computes_in_double == b.computes_in_double;
    };
    plan.run_stretches(threads, part, jobs, [&](const kernel::Stretch& stretch) {
        for (const kernel::Job *first = stretch.first, *last; first <= stretch.last; first = last + 1) {
            for (last = first; last < stretch.last && is_same(*first, last[1]);) ++last;
            sweep(*first, kernel::Stretch{first, last, first == stretch.first ? stretch.begin : 0,
                                          last == stretch.last ? stretch.end : last->size});
        }
    });
}

template <class Sweep>
void run_kinds(const SweepPlan& plan, int threads, std::span<const kernel::Job> jobs, const Sweep& sweep) {
    run_kinds(plan, threads, plan.whole(), jobs, sweep);
}

/// Splits pieces that are never cut; each belongs to the equal share of all elements in which it begins.
class PiecePlan {
public:
    void reserve(std::size_t count) { pieces_.reserve(count); }

    void clear() {
        pieces_.clear();
        total_ = 0;
    }

    void add(std::size_t piece, std::int64_t elements) {
        pieces_.push_back({piece, total_});
        total_ += elements;
    }

    template <class Work>
    void run(const Work& work) const {
        const int threads = threads_for(total_);
        const std::int64_t count = shares_for(threads, total_);
        run_on_threads(threads, count, [&](std::int64_t k) {
            const auto border = [&](std::int64_t i) {
                return i == count ? pieces_.end()
                                  : std::ranges::lower_bound(pieces_, total_ / count * i, {}, &Piece::first);
            };
            const auto end = border(k + 1);
            for (auto piece = border(k); piece != end; ++piece) work(piece->index);
        });
    }

private:
    struct Piece {
        std::size_t index;
        std::int64_t first;
    };
    std::vector<Piece> pieces_;
    std::int64_t total_ = 0;
};

}  // namespace fusedopt
