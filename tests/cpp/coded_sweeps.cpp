// Every kernel on coded slots: what it leaves is what it leaves in float slots that hold the same numbers, coded by the
// book, however variables are cut. And 16-bit variables without a master copy in the kernels that have sweeps of their
// own.
#include <algorithm>
#include <cmath>
#include <random>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "cases.hpp"
#include "check.hpp"
#include "codes.hpp"
#include "sweeps.hpp"

#include "kernel/border/adafactor.hpp"
#include "kernel/border/lamb.hpp"
#include "kernel/border/muon.hpp"

namespace {

using codes::all_codes;
using codes::Floats;
using codes::same;
using codes::Slots;
using kernel::SlotCode;

constexpr std::uint64_t first_tile = 9;

Floats numbers(std::int64_t size, unsigned seed, bool is_signed) {
    std::mt19937 generator(seed);
    std::normal_distribution<double> normal;
    Floats numbers(static_cast<std::size_t>(size));
    for (float& x : numbers) {
        const double y = normal(generator);
        x = static_cast<float>(is_signed ? y : y * y + 0.01);
    }
    return numbers;
}

kernel::Step step_with_signs() {
    kernel::Step step = step_of_any_rule(4);
    std::fill(std::begin(step.is_signed), std::end(step.is_signed), true);  // some formulas go below zero here
    return step;
}

// A variable with slots of floats, or coded ones that hold the same numbers to begin with.
struct Variable {
    std::int64_t size;
    Floats weights, gradients, average;
    std::vector<Floats> slots;
    std::vector<std::uint16_t> storage;  // if the variable is of bfloat16

    explicit Variable(std::int64_t elements, std::size_t slot_count = kernel::max_slots)
        : size(elements), weights(numbers(size, 1, true)), gradients(numbers(size, 2, true)), average(weights) {
        for (std::size_t k = 0; k < slot_count; ++k)
            slots.push_back(numbers(size, 3 + static_cast<unsigned>(k), k == 0));
    }

    void become_bfloat16() {
        for (float& x : weights) {
            storage.push_back(codes::nearest_bfloat16(x));
            x = codes::from_bfloat16(storage.back());
        }
    }

    kernel::Job job(bool has_average = false, bool has_master = true) {
        kernel::Job job = job_of(size, has_master ? weights.data() : nullptr, gradients.data(), first_tile);
        if (!has_master) {
            job.storage = storage.data();
            job.storage_element = kernel::Element::bfloat16;
        }
        for (std::size_t k = 0; k < slots.size(); ++k) job.slots[k] = slots[k].data();
        job.average = has_average ? average.data() : nullptr;
        return job;
    }

    // Coded slots with this variable's numbers, which become what the codes say.
    Slots code(SlotCode slot_code, const kernel::Step& step, std::size_t count) {
        const Slots coded = Slots(slot_code, size, count).expected(step, slots, false);
        for (std::size_t k = 0; k < count; ++k) slots[k] = coded.slots[k].numbers(step.is_signed[k]);
        return coded;
    }
};

// A rule with fewer slots leaves the others alone.
void check_slots(const Slots& found, const Slots& start, const kernel::Step& step, const Variable& exact,
                 const Variable& before) {
    const Slots coded = start.expected(step, exact.slots, true, first_tile);
    for (std::size_t k = 0; k < found.slots.size(); ++k) {
        const bool is_used = !same(exact.slots[k], before.slots[k]);
        CHECK(found.slots[k] == (is_used ? coded : start).slots[k]);
    }
}

const kernel::LambKernels& lamb() {
    return fusedopt::current_kernels().lamb[0];
}

}  // namespace

TEST(every_formula_steps_as_on_floats) {
    const kernel::Step step = step_with_signs();
    // The kernels of rows come last.
    for (int id = 0; id < static_cast<int>(kernel::RuleId::RowwiseRmsprop); ++id) {
        const auto rule = static_cast<kernel::RuleId>(id);
        const std::size_t count = rule == kernel::RuleId::Muon ? 1 : kernel::max_slots;
        for (const SlotCode code : all_codes) {
            for (const bool has_average : {false, true}) {
                for (const std::int64_t size : {std::int64_t{40}, 2 * kernel::tile + 500}) {
                    Variable exact(size);
                    const Slots start = exact.code(code, step, count);
                    const Variable before = exact;
                    fusedopt::set_level(fusedopt::supported_levels().front());
                    sweep(rule, step, exact.job(has_average));
                    on_every_level([&] {
                        for (const std::int64_t cut : {std::int64_t{0}, kernel::tile}) {
                            if (cut >= size) continue;
                            Variable found = before;
                            Slots coded = start;
                            sweep(rule, step, coded.in(found.job(has_average)), cut);
                            CHECK(same(found.weights, exact.weights));
                            CHECK(same(found.average, exact.average));
                            check_slots(coded, start, step, exact, before);
                        }
                    });
                }
            }
        }
    }
}

// The slot of elements is coded, and what a row has is not.
TEST(a_row_with_one_second_moment_steps_as_on_floats) {
    const kernel::Step step = step_with_signs();
    for (const auto rule : {kernel::RuleId::RowwiseAdam, kernel::RuleId::RowwiseNadam, kernel::RuleId::RowwiseYogi}) {
        for (const SlotCode code : all_codes) {
            for (const std::int64_t size : {std::int64_t{64}, kernel::tile + 64}) {
                Variable exact(size);
                const Slots start = exact.code(code, step, 1);
                const Variable before = exact;
                fusedopt::set_level(fusedopt::supported_levels().front());
                sweep(rule, step, exact.job());
                on_every_level([&] {
                    Variable found = before;
                    Slots coded = start;
                    sweep(rule, step, coded.in(found.job()));
                    CHECK(same(found.weights, exact.weights));
                    CHECK(same(found.slots[1], exact.slots[1]));
                    check_slots(coded, start, step, exact, before);
                });
            }
        }
    }
}

// The update comes from numbers that are not coded yet, in both sweeps. So the norm is that of the update which is
// made.
TEST(lamb_steps_as_on_floats) {
    constexpr std::int64_t size = 2 * kernel::tile + 500;
    const kernel::Step step = step_with_signs();
    for (const SlotCode code : all_codes) {
        Variable exact(size, 2);
        const Slots start = exact.code(code, step, 2);
        const Variable before = exact;
        const Floats accumulated = numbers(size, 7, true);
        const auto run = [&](kernel::Job job, std::vector<kernel::Squares>& sums, const auto& in_between) {
            Floats accumulator = accumulated;
            job.accumulator = accumulator.data();
            const fusedopt::FloatEnvironment environment;
            lamb().advance(step, {&job, &job, 0, size}, sums.data());
            in_between(accumulator);
            lamb().settle(step, {&job, &job, 0, size});
            CHECK(same(accumulator, Floats(size, 0.0f)));
        };
        std::vector<kernel::Squares> expected(20), sums(20);
        fusedopt::set_level(fusedopt::supported_levels().front());
        run(exact.job(), expected, [](const Floats&) {});
        on_every_level([&] {
            Variable found = before;
            Slots coded = start;
            run(coded.in(found.job()), sums, [&](const Floats& accumulator) {
                CHECK(same(accumulator, accumulated));
                for (std::size_t k = 0; k < 2; ++k) CHECK(coded.slots[k] == start.slots[k]);
            });
            CHECK(same(found.weights, exact.weights));
            check_slots(coded, start, step, exact, before);
            for (std::size_t k = first_tile; k < first_tile + 3; ++k) {
                CHECK_EQUAL(sums[k].update, expected[k].update);
                CHECK_EQUAL(sums[k].weight, expected[k].weight);
            }
        });
    }
}

TEST(muon_reads_its_momentum_from_the_codes) {
    constexpr std::int64_t size = kernel::tile + 500;
    const kernel::Step step = step_with_signs();
    for (const SlotCode code : all_codes) {
        Variable exact(size, 2);
        const Slots start = exact.code(code, step, 1);
        const Variable before = exact;
        std::vector<double> expected(2);
        fusedopt::set_level(fusedopt::supported_levels().front());
        const fusedopt::FloatEnvironment environment;
        fusedopt::current_kernels().muon[0].make_direction(step, exact.job(), 0, size, expected.data());
        on_every_level([&] {
            Variable found = before;
            Slots coded = start;
            std::vector<double> sums(2);
            fusedopt::current_kernels().muon[0].make_direction(step, coded.in(found.job()), 0, size, sums.data());
            CHECK(same(found.slots[1], exact.slots[1]));
            CHECK(sums == expected);
        });
    }
}

TEST(adafactor_steps_on_a_vector_as_on_floats) {
    constexpr std::int64_t size = kernel::tile + 500;
    const kernel::Step step = step_with_signs();
    Variable exact(size);
    const Slots start = exact.code(SlotCode::bfloat16, step, 3);
    const Variable before = exact;
    const auto run = [&](kernel::Job job, kernel::Squares& squares) {
        kernel::Block block{};
        block.row_length = block.columns = size;
        block.rows = 1;
        block.squares = &squares;
        const fusedopt::FloatEnvironment environment;
        fusedopt::current_kernels().adafactor[0].advance_unfactored(step, job, block);
        fusedopt::current_kernels().adafactor[0].settle_unfactored(step, job, block);
    };
    fusedopt::set_level(fusedopt::supported_levels().front());
    kernel::Squares expected;
    run(exact.job(), expected);
    on_every_level([&] {
        Variable found = before;
        Slots coded = start;
        kernel::Squares squares;
        run(coded.in(found.job()), squares);
        CHECK(same(found.weights, exact.weights));
        check_slots(coded, start, step, exact, before);
        CHECK_EQUAL(squares.update, expected.update);
        CHECK_EQUAL(squares.weight, expected.weight);
    });
}

// In sweeps of their own, too, a 16-bit variable is widened, updated and rounded at random.
TEST(variables_without_a_master_copy_step_as_with_one) {
    constexpr std::int64_t rows = 7, columns = 300, size = rows * columns;
    const kernel::Step step = step_with_signs();
    const auto adafactor_matrix = [&](kernel::Job job) {
        std::vector<double> row_sums(rows), column_sums(columns);
        const Floats means(rows, 0.5f), factors(columns, 2.0f);
        kernel::Squares squares;
        kernel::Block block{
            0,       columns, rows, columns, means.data(), factors.data(), 0.75, row_sums.data(), column_sums.data(),
            &squares};
        const kernel::AdafactorKernels& kernels = fusedopt::current_kernels().adafactor[0];
        kernels.sums(step, job, block);
        kernels.settle(step, job, block);
        return squares.weight;
    };
    const auto lamb_sweeps = [&](kernel::Job job) {
        std::vector<kernel::Squares> squares(20);
        lamb().advance(step, {&job, &job, 0, size}, squares.data());
        lamb().settle(step, {&job, &job, 0, size});
        return squares[first_tile].weight;
    };
    const auto check = [&](const auto& run) {
        Variable exact(size);
        exact.become_bfloat16();
        const Variable before = exact;
        const fusedopt::FloatEnvironment environment;
        fusedopt::set_level(fusedopt::supported_levels().front());
        const double weight = run(exact.job());
        on_every_level([&] {
            Variable found = before;
            CHECK_EQUAL(run(found.job(false, false)), weight);
            for (std::int64_t i = 0; i < size; ++i) {
                const auto place = static_cast<std::size_t>(i);
                CHECK_EQUAL(
                    found.storage[place],
                    codes::random_bfloat16(exact.weights[place], codes::random_bits(step.seed, first_tile, 0, i)));
            }
        });
    };
    check(adafactor_matrix);
    check(lamb_sweeps);
}
