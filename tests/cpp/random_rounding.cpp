// float16 and bfloat16 variables without a master copy: a step rounds them at random to one of the two neighbours. The
// mean is the number itself, and the bits depend on nothing but the seed.
#include <algorithm>
#include <cmath>

#include "array.hpp"
#include "cases.hpp"
#include "check.hpp"
#include "sweeps.hpp"

namespace {

constexpr DType small_dtypes[] = {DType::float16, DType::bfloat16};

kernel::Element element_of(DType dtype) {
    switch (dtype) {
        case DType::float16:
            return kernel::Element::float16;
        case DType::bfloat16:
            return kernel::Element::bfloat16;
        case DType::float32:
            return kernel::Element::float32;
        default:
            return kernel::Element::float64;
    }
}

// A 16-bit variable, its gradient and what a rule keeps of it.
struct Variable {
    Array storage, gradient, average;
    std::vector<Array> slots;
    Array master;

    Variable(DType dtype, const Values& values, DType gradient_dtype, const Values& gradients)
        : storage(dtype, values),
          gradient(gradient_dtype, gradients),
          average(DType::float32, numbers(DType::float32, size(), 5)),
          master(DType::float32, rounded(dtype, values)) {
        for (unsigned k = 0; k < kernel::max_slots; ++k) {
            Values positive = numbers(DType::float32, size(), 10 + k);
            for (double& x : positive) x = std::fabs(x) + 0.125;
            slots.emplace_back(DType::float32, positive);
        }
    }

    std::int64_t size() const { return storage.tensor().size(); }

    kernel::Job job(std::uint64_t first_tile, bool has_average, bool has_master = false) const {
        kernel::Job job = job_of(size(), has_master ? master.data() : nullptr, gradient.data(), first_tile);
        job.storage = storage.data();
        job.storage_element = element_of(storage.dtype());
        job.gradient_element = element_of(gradient.dtype());
        for (std::size_t k = 0; k < slots.size(); ++k) job.slots[k] = slots[k].data();
        job.average = has_average ? average.data() : nullptr;
        return job;
    }

    // Everything that a step may write, bit by bit.
    std::vector<Values> written() const {
        std::vector<Values> all{values_of(storage.tensor()), values_of(average.tensor())};
        for (const Array& slot : slots) all.push_back(values_of(slot.tensor()));
        return all;
    }
};

// w <- w - g
kernel::Step descent_of(std::uint64_t seed) {
    kernel::Step step = plain_step(seed);
    step.scalars.values[0] = 1.0;
    return step;
}

// What becomes of these numbers, which float32 holds.
Values rounded_at_random(DType dtype, Values numbers, std::uint64_t seed) {
    for (double& x : numbers) x = -x;
    const Variable variable(dtype, Values(numbers.size()), DType::float32, numbers);
    sweep(kernel::RuleId::Sgd, descent_of(seed), variable.job(0, false));
    return values_of(variable.storage.tensor());
}

// The two numbers of a format around a finite one, and how far it is from the one nearer to zero.
struct Neighbours {
    double low, high, part;

    Neighbours(DType dtype, double x) {
        const SmallFloat format = small_float(dtype);
        std::uint16_t bits = to_bits(format, x);
        if (std::fabs(from_bits(format, bits)) > std::fabs(x)) --bits;
        low = from_bits(format, bits);
        high = x == low ? low : from_bits(format, static_cast<std::uint16_t>(bits + 1));
        part = x == low ? 0.0 : (x - low) / (high - low);
    }
};

// Shares this far apart are no accident.
double tolerance(double part, double count) {
    return 5.0 * std::sqrt(part * (1.0 - part) / count) + 1.0 / count;
}

Values numbers_between(DType dtype) {
    Values values{1.0,         1.0 + 0x1p-9, 1.0 + 0x1p-12, 1.0 + 0x1p-18, -1.0 - 0x1.8p-8, 1.99999,  -3.14159274,
                  1000.0123,   -1e-3,        65503.9,       0x1p-14,       0x1.ffcp-15,     1e-4,     -6.2e-5,
                  0x1.fffp-15, 1e-5,         -1.23e-6,      1e-7,          0x1p-24,         0x1p-25,  -0x1.4p-26,
                  1e-9,        0x1.8p-22,    0.0,           -0.0,          1e-30,           7.77e-20, 3e38};
    if (dtype == DType::float16) values.pop_back();
    return rounded(DType::float32, values);
}

}  // namespace

TEST(what_is_representable_stays) {
    for (const DType dtype : small_dtypes) {
        Values patterns, expected;
        for (unsigned bits = 0; bits < 0x10000; ++bits) {
            const double x = from_bits(small_float(dtype), static_cast<std::uint16_t>(bits));
            patterns.push_back(x);
            expected.push_back(std::fabs(x) < 0x1p-126 ? std::copysign(0.0, x) : x);  // the kernels flush subnormals
        }
        on_every_level([&] {
            for (const std::uint64_t seed : {0u, 1u, 12345u}) {
                const Variable variable(dtype, patterns, DType::float32, Values(patterns.size()));
                sweep(kernel::RuleId::Sgd, descent_of(seed), variable.job(0, false));
                CHECK_EQUAL(difference(values_of(variable.storage.tensor()), expected), "");
            }
        });
    }
}

// Of float16 the nearest, which may be infinity, and of bfloat16 the largest, as the rest is cut off.
TEST(beyond_the_largest_nothing_is_random) {
    for (const DType dtype : small_dtypes) {
        const double largest = from_bits(small_float(dtype), dtype == DType::float16 ? 0x7bff : 0x7f7f);
        Values values{largest, HUGE_VAL, std::nan("")};
        for (const double above : {0x1p-20, 0.25, 0.5 - 0x1p-7, 0.5, 0.75, 0.99}) {
            values.push_back(largest * (1.0 + above * (dtype == DType::float16 ? 0x1p-10 : 0x1p-7)));
        }
        if (dtype == DType::float16) values.push_back(1e30);
        const auto positive = values.size();
        for (std::size_t k = 0; k < positive; ++k) values.push_back(-values[k]);
        values = rounded(DType::float32, values);
        for (std::size_t k = 0; k < 40; ++k) values.push_back(values[k % (2 * positive)]);
        Values expected = rounded(dtype, values);
        for (std::size_t k = 0; k < values.size(); ++k) {
            if (dtype == DType::bfloat16 && std::isfinite(values[k])) expected[k] = std::copysign(largest, values[k]);
        }
        on_every_level([&] {
            for (std::uint64_t seed = 0; seed < 100; ++seed) {
                CHECK_EQUAL(difference(rounded_at_random(dtype, values, seed), expected), "");
            }
        });
    }
}

TEST(random_bits_do_not_carry_a_nan_of_ones_into_its_sign) {
    for (const DType dtype : small_dtypes) {
        for (const double nan : {std::nan("0xfffffffffffff"), -std::nan("0xfffffffffffff")}) {
            Values values(100, 1.0);
            values[3] = values[97] = nan;
            on_every_level(
                [&] { CHECK_EQUAL(difference(rounded_at_random(dtype, values, 1), rounded(dtype, values)), ""); });
        }
    }
}

TEST(the_mean_over_elements_is_the_number) {
    for (const DType dtype : small_dtypes) {
        for (const double x : numbers_between(dtype)) {
            const Neighbours expected(dtype, x);
            double up = 0;
            constexpr int seeds = 8, size = 5000;
            for (std::uint64_t seed = 0; seed < seeds; ++seed) {
                for (const double found : rounded_at_random(dtype, Values(size, x), seed)) {
                    CHECK(found == expected.low || found == expected.high);
                    up += found != expected.low;
                }
            }
            CHECK(std::fabs(up / (seeds * size) - expected.part) <= tolerance(expected.part, seeds * size));
        }
    }
}

TEST(the_mean_over_seeds_is_the_number) {
    for (const DType dtype : small_dtypes) {
        const Values values = numbers_between(dtype);
        std::vector<double> up(values.size());
        constexpr int seeds = 4000;
        for (std::uint64_t seed = 0; seed < seeds; ++seed) {
            const Values found = rounded_at_random(dtype, values, seed);
            for (std::size_t k = 0; k < values.size(); ++k) up[k] += found[k] != Neighbours(dtype, values[k]).low;
        }
        for (std::size_t k = 0; k < values.size(); ++k) {
            const double part = Neighbours(dtype, values[k]).part;
            CHECK(std::fabs(up[k] / seeds - part) <= tolerance(part, seeds));
        }
    }
}

TEST(elements_tiles_and_seeds_know_nothing_of_each_other) {
    constexpr std::size_t size = 400 * kernel::tile;
    const double x = 1.0 + 0x1p-12;
    for (const DType dtype : small_dtypes) {
        const double part = Neighbours(dtype, x).part;
        std::vector<Values> found;
        for (const std::uint64_t seed : {7ull, 8ull, 7ull + (1ull << 32), 7ull + kernel::tile}) {
            found.push_back(rounded_at_random(dtype, Values(size, x), seed));
        }
        // Bits of a tile have a random start and step, so that tiles are what is counted, not elements.
        const auto are_independent = [&](const Values& a, const Values& b, std::size_t shift) {
            const std::size_t tiles = (size - shift) / kernel::tile;
            double sum = 0, sum_of_squares = 0;
            for (std::size_t t = 0; t < tiles; ++t) {
                double both = 0;
                for (std::size_t i = t * kernel::tile; i < (t + 1) * kernel::tile; ++i) {
                    both += a[i] != 1.0 && b[i + shift] != 1.0;
                }
                const double away = both / kernel::tile - part * part;
                sum += away;
                sum_of_squares += away * away;
            }
            return std::fabs(sum) <= 5.0 * std::sqrt(sum_of_squares) + 1e-9;
        };
        for (const std::size_t shift : {1, 2, 16, 1024, 2048}) CHECK(are_independent(found[0], found[0], shift));
        for (const std::size_t seed : {1, 2, 3}) {
            for (const std::size_t shift : {0, 1, 1024}) {
                CHECK(are_independent(found[0], found[seed], shift));
                CHECK(are_independent(found[seed], found[0], shift));
            }
        }
    }
}

TEST(every_rule_steps_as_on_a_master_copy_and_rounds_the_same_everywhere) {
    constexpr std::int64_t size = 3 * kernel::tile + 77;
    // The kernels of rows come last. A job of theirs is one whole row, which is never cut.
    constexpr int count = static_cast<int>(kernel::RuleId::RowwiseRmsprop);
    for (int k = 0; k < count; ++k) {
        const auto rule = static_cast<kernel::RuleId>(k);
        for (const DType dtype : small_dtypes) {
            for (const DType gradient_dtype : all_dtypes) {
                for (const bool has_average : {false, true}) {
                    const Values start = numbers(dtype, size, 1), gradient = numbers(gradient_dtype, size, 2);
                    const auto make = [&] { return Variable(dtype, start, gradient_dtype, gradient); };
                    const Variable exact = make();
                    fusedopt::set_level(fusedopt::supported_levels().front());
                    sweep(rule, step_of_any_rule(3), exact.job(9, has_average, true));
                    std::vector<Values> expected = exact.written();

                    const Variable whole = make();
                    sweep(rule, step_of_any_rule(3), whole.job(9, has_average));
                    const Values weights = values_of(exact.master.tensor());
                    const Values found = values_of(whole.storage.tensor());
                    std::size_t away = 0;
                    for (std::size_t i = 0; i < found.size(); ++i) {
                        const Neighbours neighbours(dtype, weights[i]);
                        CHECK(found[i] == neighbours.low || found[i] == neighbours.high);
                        away += found[i] != expected[0][i];
                    }
                    CHECK(away > 100);  // of them are not rounded to the nearest
                    expected[0] = found;

                    on_every_level([&] {
                        for (const std::int64_t cut : {std::int64_t{0}, kernel::tile, 3 * kernel::tile}) {
                            const Variable parts = make();
                            const kernel::Job job = parts.job(9, has_average);
                            sweep(rule, step_of_any_rule(3), job, cut);
                            const std::vector<Values> written = parts.written();
                            for (std::size_t j = 0; j < written.size(); ++j) {
                                CHECK_EQUAL(difference(written[j], expected[j]), "");
                            }
                        }
                    });
                }
            }
        }
    }
}

TEST(a_variable_that_takes_its_average_is_rounded_too) {
    constexpr std::int64_t size = 1500;
    for (const DType dtype : small_dtypes) {
        const Values start = numbers(dtype, size, 1);
        const Variable variable(dtype, start, DType::float32, numbers(DType::float32, size, 2));
        kernel::Step step = step_of_any_rule(1);
        step.overwrite = true;
        sweep(kernel::RuleId::Sgd, step, variable.job(0, true));
        const std::vector<Values> written = variable.written();
        for (std::size_t i = 0; i < written[0].size(); ++i) {
            const Neighbours neighbours(dtype, written[1][i]);
            CHECK(written[0][i] == neighbours.low || written[0][i] == neighbours.high);
        }
    }
}
