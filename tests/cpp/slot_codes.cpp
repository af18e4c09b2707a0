// Slots in 16 and 8 bits: codes and numbers on every level, against codes by the book; and what rounding at random and
// the guard promise.
#include <cmath>
#include <random>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "cases.hpp"
#include "check.hpp"
#include "codes.hpp"
#include "sweeps.hpp"

namespace {

using codes::all_codes;
using codes::Floats;
using codes::same;
using codes::Slots;
using kernel::SlotCode;

// Adam's: slot 0 has a sign, slot 1 has none.
kernel::Step step_of(std::uint64_t seed, kernel::Guard guard = {}) {
    kernel::Step step = plain_step(seed);
    step.is_signed[0] = true;
    step.guard = guard;
    return step;
}

constexpr kernel::Guard guards[] = {{}, {0, 1, 2, 1.0 / 53.0}, {0, 1, 1, 0.3}, {0, 1, 2, 1e30}};

std::mt19937 generator(7);

double uniform() {
    return std::uniform_real_distribution<double>(0.0, 1.0)(generator);
}

// Numbers that lie so many binades apart in a block, with zeros among them.
Floats spread(std::size_t size, double binades, double top, bool is_signed) {
    Floats numbers;
    for (std::size_t i = 0; i < size; ++i) {
        const double x = uniform() < 0.1 ? 0.0 : std::exp2(top - binades * uniform());
        numbers.push_back(static_cast<float>(is_signed && uniform() < 0.5 ? -x : x));
    }
    return numbers;
}

// One number in each of many blocks, of which the others are ordinary.
Floats with(Floats numbers, const Floats& rare) {
    for (std::size_t i = 0; i < rare.size() && 70 * i + 3 < numbers.size(); ++i) numbers[70 * i + 3] = rare[i];
    return numbers;
}

const Floats rare_numbers{NAN,     HUGE_VALF, -HUGE_VALF, 3.4e38f, -3.3e38f, 3.2e38f, 1e-38f,  -1.2e-38f, 1e-40f,
                          -1e-42f, 1e-45f,    1e30f,      -1e30f,  1e-30f,   -0.0f,   1.7e38f, -NAN,      3.39e38f};

// Slots of a rule with a signed and an unsigned number for each element, in many shapes.
std::vector<std::vector<Floats>> examples(std::size_t size) {
    std::vector<std::vector<Floats>> all;
    for (const double binades : {0.5, 3.0, 6.0, 12.0, 20.0, 40.0}) {
        for (const double top : {-120.0, -60.0, -12.0, 0.0, 30.0, 60.0, 126.0}) {
            all.push_back({spread(size, binades, top / 2, true), spread(size, binades, top, false)});
        }
    }
    Floats positive = rare_numbers;
    for (float& x : positive) x = std::fabs(x);
    all.push_back({with(all[0][0], rare_numbers), all[0][1]});
    all.push_back({all[2][0], with(all[2][1], positive)});
    all.push_back({with(all[5][0], rare_numbers), with(all[5][1], positive)});
    all.push_back({Floats(size, 0.0f), Floats(size, 0.0f)});
    all.push_back({Floats(size, 0.0f), all[3][1]});
    all.push_back({all[3][0], Floats(size, 0.0f)});
    return all;
}

// Numbers as a step puts them into Adam's slots: with factors of 1, the gradient and its square. What lies in the slots
// before is lost.
struct Rounding {
    SlotCode code;
    Floats gradients;

    std::vector<Floats> numbers() const {
        std::vector<Floats> both{gradients, gradients};
        for (float& x : both[1]) x = x * x;
        return both;
    }

    Slots run(const kernel::Step& step, std::uint64_t first_tile, std::int64_t cut = 0) const {
        const auto size = static_cast<std::int64_t>(gradients.size());
        Slots slots(code, size, 2);
        Floats weights(gradients.size());
        sweep(kernel::RuleId::Adam, step, slots.in(job_of(size, weights.data(), gradients.data(), first_tile)), cut);
        return slots;
    }
};

kernel::Step assigning(std::uint64_t seed, kernel::Guard guard = {}) {
    kernel::Step step = step_of(seed, guard);
    step.scalars.values[1] = step.scalars.values[2] = 1.0;
    return step;
}

}  // namespace

TEST(numbers_are_coded_by_the_nearest_as_the_book_says) {
    for (const std::int64_t size : {1, 63, 64, 65, 512, 513, 1500}) {
        for (const auto& numbers : examples(static_cast<std::size_t>(size))) {
            for (const kernel::Guard& guard : guards) {
                for (const SlotCode code : all_codes) {
                    const kernel::Step step = step_of(1, guard);
                    const Slots empty(code, size, 2);
                    const Slots expected = empty.expected(step, numbers, false);
                    on_every_level([&] {
                        Slots found(code, size, 2);
                        found.load(step, numbers);
                        CHECK(found.slots[0] == expected.slots[0]);
                        CHECK(found.slots[1] == expected.slots[1]);
                        CHECK(same(found.decoded(0, true), expected.slots[0].numbers(true)));
                        CHECK(same(found.decoded(1, false), expected.slots[1].numbers(false)));
                    });
                }
            }
        }
    }
}

TEST(a_step_rounds_at_random_as_the_book_says_wherever_it_is_cut) {
    for (const std::int64_t size : {1, 64, 100, 1024, 2500}) {
        for (const auto& numbers : examples(static_cast<std::size_t>(size))) {
            for (const kernel::Guard& guard : guards) {
                for (const SlotCode code : all_codes) {
                    Rounding rounding{code, numbers[0]};
                    // A kernel makes no subnormal numbers, and reads them as zeros.
                    std::vector<Floats> expected_numbers = rounding.numbers();
                    for (Floats& slot : expected_numbers) {
                        for (float& x : slot) x = codes::magnitude_of(x) < 0x00800000u ? 0.0f : x;
                    }
                    const kernel::Step step = assigning(5, guard);
                    const Slots expected = Slots(code, size, 2).expected(step, expected_numbers, true, 7);
                    on_every_level([&] {
                        for (const std::int64_t cut : {std::int64_t{0}, kernel::tile}) {
                            if (cut >= size) continue;
                            const Slots found = rounding.run(step, 7, cut);
                            CHECK(found.slots[0] == expected.slots[0]);
                            CHECK(found.slots[1] == expected.slots[1]);
                        }
                    });
                }
            }
        }
    }
}

TEST(fresh_memory_means_zeros_and_zeros_stay) {
    for (const SlotCode code : all_codes) {
        on_every_level([&] {
            Slots fresh(code, 1000, 2);
            CHECK(same(fresh.decoded(0, true), Floats(1000)));
            CHECK(same(fresh.decoded(1, false), Floats(1000)));
            // Beside large ones.
            Floats some = spread(1000, 6.0, 3.0, true);
            for (std::size_t i = 0; i < some.size(); i += 3) some[i] = 0.0f;
            const Slots rounded = Rounding{code, some}.run(assigning(11, guards[1]), 0);
            for (std::size_t i = 0; i < some.size(); i += 3) {
                CHECK(rounded.slots[0].numbers(true)[i] == 0.0f);
                CHECK(rounded.slots[1].numbers(false)[i] == 0.0f);
            }
        });
    }
}

TEST(what_is_not_finite_spoils_nothing_but_itself) {
    const Floats plain = spread(640, 6.0, -4.0, true);
    for (const SlotCode code : all_codes) {
        Floats spoilt = plain;
        spoilt[5] = NAN;
        spoilt[100] = HUGE_VALF;
        spoilt[165] = -HUGE_VALF;
        spoilt[230] = 1e30f;  // whose square is infinite
        on_every_level([&] {
            const Slots found = Rounding{code, spoilt}.run(assigning(2, guards[1]), 0);
            const Floats m = found.slots[0].numbers(true), v = found.slots[1].numbers(false);
            CHECK(std::isnan(m[5]) && std::isnan(v[5]));
            CHECK(m[100] == HUGE_VALF && v[100] == HUGE_VALF);
            CHECK(m[165] == -HUGE_VALF && v[165] == HUGE_VALF);
            CHECK(std::fabs(m[230] / 1e30f - 1) < 0.13 && v[230] == HUGE_VALF);
            for (std::size_t i = 0; i < plain.size(); ++i) {
                if (spoilt[i] != plain[i] || i / 64 == 230 / 64) continue;
                CHECK(std::fabs(m[i] - plain[i]) <= 0.126 * std::fabs(plain[i]) + 1e-4);
                CHECK(std::fabs(v[i] - plain[i] * plain[i]) <= 0.126 * plain[i] * plain[i]);
            }
        });
    }
}

TEST(the_mean_over_seeds_is_the_number) {
    fusedopt::set_level(fusedopt::supported_levels().back());
    constexpr int seeds = 4000;
    for (const SlotCode code : all_codes) {
        for (const double binades : {2.0, 12.0}) {
            const Rounding rounding{code, spread(200, binades, -3.0, true)};
            const std::vector<Floats> numbers = rounding.numbers();
            std::vector<std::vector<double>> sums(2, std::vector<double>(200)), squares = sums;
            for (std::uint64_t seed = 0; seed < seeds; ++seed) {
                const Slots slots = rounding.run(assigning(seed), 3);
                for (std::size_t k = 0; k < 2; ++k) {
                    const Floats found = slots.slots[k].numbers(k == 0);
                    for (std::size_t i = 0; i < found.size(); ++i) {
                        const double away = static_cast<double>(found[i]) - static_cast<double>(numbers[k][i]);
                        sums[k][i] += away;
                        squares[k][i] += away * away;
                    }
                }
            }
            const double step = code == SlotCode::bfloat16 ? 1.0 / 128 : 1.0 / 8;  // of a number, at most
            for (std::size_t k = 0; k < 2; ++k) {
                for (std::size_t i = 0; i < 200; ++i) {
                    CHECK(squares[k][i] > 0 || rounding.gradients[i] == 0.0f);
                    // A number next to a code may never have been rounded to the other one.
                    const double once = step * static_cast<double>(numbers[k][i]);
                    const double spread_of_mean = std::sqrt(squares[k][i] + once * once) / seeds;
                    CHECK(std::fabs(sums[k][i] / seeds) <= 5.0 * spread_of_mean);
                }
            }
        }
    }
}

TEST(the_guard_holds_exactly) {
    for (const kernel::Guard& guard :
         {guards[1], guards[2], kernel::Guard{0, 1, 2, 3e-5}, kernel::Guard{0, 1, 1, 1.0}}) {
        for (int example = 0; example < 200; ++example) {
            const double binades = 40.0 * uniform(), top = 60.0 * uniform() - 40.0;
            std::vector<Floats> numbers{spread(512, binades, top, true), spread(512, binades, top, false)};
            // Large where rounding may lose it: just as the bound is.
            for (std::size_t i = 0; i < 512; ++i) {
                const double least = guard.floor * std::pow(std::fabs(static_cast<double>(numbers[0][i])), guard.power);
                if (uniform() < 0.8) numbers[1][i] = static_cast<float>(least * (1.0 + 2.0 * uniform()));
                if (numbers[1][i] == 0.0f || numbers[1][i] > 3e38f) numbers[1][i] = numbers[0][i] = 0.0f;
            }
            const kernel::Step step = step_of(1, guard);
            on_every_level([&] {
                Slots found(SlotCode::float8, 512, 2);
                found.load(step, numbers);
                const Floats small = found.decoded(0, true), large = found.decoded(1, false);
                for (std::size_t i = 0; i < 512; ++i) {
                    const double x = std::fabs(static_cast<double>(small[i]));
                    const double least = guard.floor * std::pow(x, guard.power);
                    CHECK(static_cast<double>(large[i]) >= least || least < 0x1p-126);
                }
            });
        }
    }
}

// Many steps with one gradient for all elements, from slots that hold something far away.
TEST(slots_follow_a_gradient_up_and_down) {
    fusedopt::set_level(fusedopt::supported_levels().back());
    constexpr std::int64_t size = 4096;
    for (const SlotCode code : all_codes) {
        for (const auto& [before, after] : {std::pair{1e-4f, 1.0f}, std::pair{1.0f, 1e-2f}, std::pair{1.0f, 0.0f}}) {
            Slots slots(code, size, 2);
            Floats weights(size), gradients(size, after);
            const kernel::Job job = slots.in(job_of(size, weights.data(), gradients.data(), 0));
            kernel::Step step = step_of(0, guards[1]);
            slots.load(step, {Floats(size, before), Floats(size, before * before)});
            step.scalars.values[1] = 0.1;
            step.scalars.values[2] = 0.001;
            double m = before, v = static_cast<double>(before) * before;
            for (; step.seed < 4000; ++step.seed) {
                sweep(kernel::RuleId::Adam, step, job);
                m += (after - m) * 0.1;
                v += (static_cast<double>(after) * after - v) * 0.001;
            }
            double mean_m = 0, mean_v = 0;
            for (const float x : slots.decoded(0, true)) mean_m += static_cast<double>(x) / size;
            for (const float x : slots.decoded(1, false)) mean_v += static_cast<double>(x) / size;
            // The guard keeps v above what is lost, so it may be larger where m's codes are coarse.
            CHECK(std::fabs(mean_m - m) <= 0.01 * std::max(std::fabs(m), 1e-30));
            CHECK(std::fabs(mean_v / v - 1.0) <= 0.05);
        }
    }
}
