// Histories of what rows have missed: composed in two levels, they give what the steps give one after the other.
#include "engine/missed.hpp"

#include <cmath>

#include "check.hpp"

namespace {

using fusedopt::History;
using fusedopt::Mover;
using fusedopt::nothing_missed;
using fusedopt::kernel::Missed;

/// One element and its slots.
struct Element {
    double w = 1.5, slots[3] = {0.75, -0.5, 0.25};
};

double sign(double x) {
    return x > 0.0 ? 1.0 : x < 0.0 ? -1.0 : 0.0;
}

void apply(const Missed& missed, Mover mover, Element& element) {
    const double slot = mover.slot < 0 ? 0.0 : element.slots[mover.slot];
    element.w = missed.keep * element.w + missed.move * (mover.is_sign ? sign(slot) : slot);
    for (int k = 0; k < 3; ++k) element.slots[k] *= missed.factors[k];
}

/// Coefficients that change from step to step.
Missed step(std::int64_t t) {
    const double x = static_cast<double>(t);
    return {1.0 - 0.001 * std::sin(x), 0.01 * std::cos(x), {0.99 + 0.01 * std::sin(3.0 * x), 0.995, 1.0}, 1.0, 0};
}

bool is_near(double a, double b) {
    return std::abs(a - b) <= 1e-10 * std::max(std::abs(a), std::abs(b)) + 1e-300;
}

}  // namespace

TEST(a_history_gives_every_row_what_it_missed) {
    for (const Mover mover : {Mover{}, Mover{0}, Mover{1}, Mover{0, true}}) {
        constexpr std::int64_t rows = 600;
        History history(rows, mover);
        CHECK(history.is_kept() && history.is_empty());
        std::vector<Element> one_by_one(rows), later(rows);
        for (std::int64_t t = 0; !history.is_full(); ++t) {
            Missed coefficients = step(t);
            if (mover.slot < 0) coefficients.move = 0.0;
            history.begin_step();
            for (std::int64_t row = 0; row < rows; ++row) {
                // Row 0 never has a gradient, the others have one in some steps.
                if (row > 0 && (t + 1) % row == 0) {
                    apply(history.missed_by(row), mover, later[static_cast<std::size_t>(row)]);
                    history.mark(row);
                } else {
                    apply(coefficients, mover, one_by_one[static_cast<std::size_t>(row)]);
                }
            }
            history.add(coefficients);
        }
        CHECK(!history.is_empty());
        for (std::size_t row = 0; row < rows; ++row) {
            apply(history.missed_by(static_cast<std::int64_t>(row)), mover, later[row]);
            CHECK(is_near(later[row].w, one_by_one[row].w));
            for (int k = 0; k < 3; ++k) CHECK(is_near(later[row].slots[k], one_by_one[row].slots[k]));
        }
        history.clear();
        CHECK(history.is_empty());
    }
}

TEST(rows_that_are_up_to_date_miss_nothing) {
    History history(100, {0});
    for (std::int64_t t = 0; t < 20; ++t) {
        history.begin_step();
        history.mark(7);
        history.add(step(t));
        const Missed missed = history.missed_by(7);
        CHECK_EQUAL(missed.keep, 1.0);
        CHECK_EQUAL(missed.move, 0.0);
        for (const double factor : missed.factors) CHECK_EQUAL(factor, 1.0);
    }
    history.mark_now(9);
    CHECK_EQUAL(history.missed_by(9).keep, 1.0);
    CHECK(history.missed_by(8).keep != 1.0);
}

TEST(a_history_has_room_for_a_part_of_the_rows) {
    for (const auto& [rows, steps] :
         {std::pair{1, 64}, {512, 64}, {8000, 1000}, {1 << 20, 1 << 17}, {1 << 22, 1 << 17}}) {
        History history(rows, {});
        int count = 0;
        for (; !history.is_full(); ++count) {
            history.begin_step();
            history.add(nothing_missed);
        }
        CHECK_EQUAL(count, steps);
    }
}

TEST(what_diverges_stays_finite) {
    History history(8000, {0});
    for (int t = 0; t < 1000; ++t) {
        history.begin_step();
        history.add({-4.0, 1.0, {1.0, 1.0, 1.0}, 1.0, 0});
    }
    CHECK(std::isfinite(history.missed_by(0).keep));
    CHECK(std::isfinite(history.missed_by(0).move));
}

TEST(a_sign_moves_until_what_it_is_taken_of_becomes_zero) {
    constexpr double beta = 0.75, sign_factor = 0.125;
    for (const double slot : {1.0, -3e-5, 1e-20, 1e-37, 1e30}) {
        for (const int first : {0, 3, 64, 200}) {
            History history(8000, {0, true});
            double expected = 0.0, m = slot;
            for (int t = 0; t < 1000; ++t) {
                history.begin_step();
                if (t == first) history.mark_now(5);
                const double keep = t % 3 ? 1.0 : 0.999, move = -1e-3 * (1 + t % 5);
                if (t >= first) {
                    expected = keep * expected + move * (std::abs(sign_factor * m) < 0x1p-126 ? 0.0 : 1.0);
                    m *= beta;
                    if (std::abs(m) < 0x1p-126) m = 0.0;
                }
                history.add({keep, move, {beta, 1.0, 1.0}, sign_factor, 0});
            }
            CHECK_EQUAL(m, 0.0);
            const Missed missed = history.missed_by(5);
            CHECK(is_near(history.move_until_zero(missed.entry, slot, false), expected));
        }
    }
    // A factor of zero ends it at once.
    History history(8000, {0, true});
    for (int t = 0; t < 10; ++t) {
        history.begin_step();
        if (t == 4) history.mark_now(5);
        history.add({1.0, 1.0, {0.0, 1.0, 1.0}, 1.0, 0});
    }
    CHECK_EQUAL(history.move_until_zero(history.missed_by(5).entry, 1e38, false), 1.0);
}
