// When rows catch up: before they are touched, read, saved, loaded or given a dense gradient, and whenever asked for.
#include <limits>
#include <numeric>

#include "check.hpp"
#include "row_cases.hpp"

namespace {

using fusedopt::Gradient;
using fusedopt::Optimizer;
using fusedopt::Options;
using fusedopt::RowGradient;
using fusedopt::RowUpdates;

const fusedopt::SGD momentum{.momentum = 0.9};
const Options caught_up{.learning_rate = 0.1, .weight_decay = 0.1, .row_updates = RowUpdates::caught_up};

const Array ones(DType::float32, {1, 2}, {1.0, 1.0});
const Array none_of_rows(DType::float32, Shape{0, 2}, Values());
const std::vector<std::int64_t> row_0{0}, row_1{1}, no_rows;

Gradient gradient_of(const std::vector<std::int64_t>& row) {
    return row.empty() ? RowGradient{none_of_rows.tensor(), Tensor(row)} : RowGradient{ones.tensor(), Tensor(row)};
}

/// A table of three rows whose rows 1 and 2 are behind.
struct Behind {
    Array table = Array(DType::float32, {3, 2}, {1.0, 2.0, 3.0, 4.0, 5.0, 6.0});
    Optimizer optimizer{momentum, caught_up};

    Behind() {
        optimizer.build({table.tensor()});
        optimizer.apply({gradient_of(row_1)});
        for (int t = 0; t < 3; ++t) optimizer.apply({gradient_of(row_0)});
    }

    Values values() const { return values_of(table.tensor()); }
};

/// What it holds when all rows have followed.
Values followed() {
    Behind behind;
    behind.optimizer.catch_up();
    return behind.values();
}

bool same(const Values& a, const Values& b) {
    return difference(a, b).empty();
}

}  // namespace

TEST(rows_are_behind_until_they_catch_up) {
    Behind behind;
    const Values before = behind.values(), after = followed();
    for (const std::size_t k : {0, 1}) CHECK_EQUAL(before[k], after[k]);
    for (const std::size_t k : {2, 3, 4, 5}) CHECK(before[k] != after[k]);
    CHECK_EQUAL(before[4], 5.0);  // never touched
}

TEST(to_catch_up_twice_is_to_catch_up_once) {
    Behind behind;
    behind.optimizer.catch_up();
    const std::vector<Tensor> variables{behind.table.tensor()};
    const auto once = snapshot(behind.optimizer, variables);
    behind.optimizer.catch_up();
    CHECK(once == snapshot(behind.optimizer, variables));
    const std::vector<std::int64_t> all{2, 0, 1, 1, 2};
    behind.optimizer.catch_up(behind.table.tensor(), Tensor(all));
    CHECK(once == snapshot(behind.optimizer, variables));
}

TEST(some_rows_catch_up) {
    Behind behind;
    const Values before = behind.values(), after = followed();
    const std::vector<std::int32_t> twice{1, 1};
    for (int k = 0; k < 2; ++k) {
        behind.optimizer.catch_up(behind.table.tensor(), Tensor(twice));
        CHECK_EQUAL(behind.values()[2], after[2]);
        CHECK_EQUAL(behind.values()[4], before[4]);
    }
    // None is all right, too.
    behind.optimizer.catch_up(behind.table.tensor(), Tensor(no_rows));
    CHECK_EQUAL(behind.values()[4], before[4]);
    behind.optimizer.catch_up(behind.table.tensor(), Tensor());  // all of them
    CHECK(same(behind.values(), after));
}

TEST(what_reads_or_writes_everything_makes_rows_catch_up) {
    const Values after = followed();
    {
        Behind behind;
        static_cast<void>(behind.optimizer.variables());
        CHECK(same(behind.values(), after));
    }
    {
        Behind behind;
        static_cast<void>(behind.optimizer.state());
        CHECK(same(behind.values(), after));
    }
    {
        Behind behind;
        behind.optimizer.finalize_variable_values(std::vector{behind.table.tensor()});
        CHECK(same(behind.values(), after));
    }
    {
        Behind behind;
        std::vector<Tensor> nothing(3);  // leaves all as it is: iteration, learning rate and momentum
        behind.optimizer.set_state(nothing);
        CHECK(same(behind.values(), after));
        behind.optimizer.catch_up();
        CHECK(same(behind.values(), after));
    }
    {
        Behind behind, dense;
        dense.optimizer.catch_up();
        const Array gradient(DType::float32, {3, 2}, {1.0, 2.0, 3.0, 4.0, 5.0, 6.0});
        behind.optimizer.apply({gradient.tensor()});
        dense.optimizer.apply({gradient.tensor()});
        CHECK(same(behind.values(), dense.values()));
        behind.optimizer.catch_up();
        CHECK(same(behind.values(), dense.values()));
    }
    {
        Behind behind;
        // Without momentum nothing moves any more, but for what was missed before.
        behind.optimizer.set_rule(fusedopt::SGD{});
        CHECK(same(behind.values(), after));
    }
}

TEST(a_load_that_is_refused_leaves_rows_behind) {
    Behind behind;
    const Values before = behind.values();
    CHECK_REFUSED(behind.optimizer.set_state({}), "expected 3 arrays");
    const Array rate(DType::float64, Shape{}, {-1.0});
    const std::vector<Tensor> values{Tensor(), rate.tensor(), Tensor()};
    CHECK_REFUSED(behind.optimizer.set_state(values), "learning_rate");
    CHECK(same(behind.values(), before));
}

TEST(a_row_that_was_written_by_hand_follows_from_there) {
    for (const DType dtype : {DType::float32, DType::bfloat16}) {
        const Array table(dtype, {2, 2}, {1.0, 1.0, 1.0, 1.0});
        Optimizer optimizer(fusedopt::SGD{},
                            {.learning_rate = 1.0, .weight_decay = 0.5, .row_updates = RowUpdates::caught_up});
        optimizer.build({table.tensor()});
        for (int t = 0; t < 2; ++t) optimizer.apply({gradient_of(no_rows)});
        write(dtype, 8.0, table.data());
        optimizer.catch_up();
        CHECK(same(values_of(table.tensor()), {2.0, 0.25, 0.25, 0.25}));
        // Caught up before, it holds.
        optimizer.apply({gradient_of(no_rows)});
        optimizer.catch_up();
        write(dtype, 8.0, table.data());
        optimizer.catch_up();
        CHECK(same(values_of(table.tensor()), {8.0, 0.125, 0.125, 0.125}));
    }
}

TEST(steps_that_are_skipped_or_have_no_gradient_count_for_nothing) {
    const Array other(DType::float32, {2, 2}, {1.0, 1.0, 1.0, 1.0});
    const Array nan(DType::float32, {1, 2}, {std::numeric_limits<double>::quiet_NaN(), 0.0});
    Behind behind, expected;
    const auto twin = [&](Behind& own, const Array& second) {
        Optimizer optimizer(momentum, caught_up);
        optimizer.build({own.table.tensor(), second.tensor()});
        return fusedopt::LossScaleOptimizer(std::move(optimizer), {.initial_scale = 1.0});
    };
    const Array other_copy = other.copy();
    fusedopt::LossScaleOptimizer scaled = twin(behind, other), plain = twin(expected, other_copy);
    for (auto* optimizer : {&scaled, &plain}) optimizer->apply({gradient_of(row_1), gradient_of(row_0)});
    CHECK(!scaled.apply({RowGradient{nan.tensor(), Tensor(row_1)}, gradient_of(row_1)}));
    scaled.set_dynamic_scale(1.0);
    scaled.apply({Tensor(), gradient_of(row_0)});
    plain.apply({Tensor(), gradient_of(row_0)});
    for (auto* optimizer : {&scaled, &plain}) optimizer->catch_up();
    CHECK(same(behind.values(), expected.values()));
    CHECK(same(values_of(other.tensor()), values_of(other_copy.tensor())));
    // A step whose gradient has no rows counts.
    const Values before = behind.values();
    scaled.apply({gradient_of(no_rows), Tensor()});
    scaled.catch_up();
    CHECK(behind.values()[2] != before[2]);
}

TEST(old_steps_keep_their_own_numbers) {
    Behind behind, expected;
    expected.optimizer.catch_up();
    for (Behind* own : {&behind, &expected}) {
        Options options = own->optimizer.options();
        options.weight_decay = 0.0;
        options.learning_rate = 5.0;
        own->optimizer.set_options(options);
        own->optimizer.set_rule(fusedopt::SGD{.momentum = 0.5});
        own->optimizer.apply({gradient_of(row_0)});
        own->optimizer.catch_up();
    }
    CHECK(distance(behind.values(), expected.values(), 1e-6).empty());
}

TEST(rows_stay_behind_when_variables_are_added_or_move) {
    const Values after = followed();
    Behind behind;
    const Array first(DType::float32, Shape{4, 2}, Values());
    behind.optimizer.build({first.tensor(), behind.table.tensor()});
    const Array moved = behind.table.copy();
    behind.optimizer.rebind(std::vector{first.tensor(), moved.tensor()});
    behind.optimizer.apply({gradient_of(row_0), Tensor()});
    behind.optimizer.catch_up();
    CHECK(same(values_of(moved.tensor()), after));
}

TEST(members_of_a_multi_optimizer_follow_each_for_itself) {
    const Array table(DType::float32, {3, 2}, {1.0, 2.0, 3.0, 4.0, 5.0, 6.0}), other = table.copy();
    const auto optimizers = std::vector{std::make_shared<Optimizer>(momentum, caught_up),
                                        std::make_shared<Optimizer>(fusedopt::SGD{}, Options{.use_ema = true})};
    fusedopt::MultiOptimizer multi(optimizers);
    multi.build(std::vector{table.tensor(), other.tensor()}, std::vector<std::size_t>{0, 1});
    multi.apply({gradient_of(row_1), gradient_of(row_0)});
    for (int t = 0; t < 3; ++t) multi.apply({gradient_of(row_0), gradient_of(row_1)});
    const Values before = values_of(table.tensor());
    multi.catch_up(table.tensor(), Tensor(row_1));
    CHECK_EQUAL(values_of(table.tensor())[2], followed()[2]);
    CHECK_EQUAL(values_of(table.tensor())[4], before[4]);
    // An evaluation sets the variables aside, so they have followed by then.
    multi.begin_evaluation();
    CHECK(same(values_of(table.tensor()), followed()));
    static_cast<void>(multi.state());
    multi.end_evaluation();
    CHECK(same(values_of(table.tensor()), followed()));
    CHECK_REFUSED(multi.catch_up(ones.tensor(), Tensor(row_1)), "catch_up");
}

TEST(what_cannot_be_caught_up_is_refused) {
    Behind behind;
    const Values before = behind.values();
    const Tensor table = behind.table.tensor();
    Optimizer& optimizer = behind.optimizer;
    const std::vector<std::int64_t> below{0, -1}, above{3};
    const std::vector<float> floats{0.0f};
    CHECK_REFUSED(optimizer.catch_up(table, Tensor(above)),
                  "catch_up: variable 0: expected row indices from 0 to 2, the variable having 3 rows, found 3 at "
                  "position 0");
    CHECK_REFUSED(optimizer.catch_up(table, Tensor(below)), "found -1 at position 1");
    CHECK_REFUSED(optimizer.catch_up(table, Tensor(floats)), "expected indices of int32 or int64, found float32");
    CHECK_REFUSED(optimizer.catch_up(table, ones.tensor()), "expected indices of int32 or int64");
    CHECK_REFUSED(optimizer.catch_up(ones.tensor(), Tensor(row_0)), "expected a variable given to build");
    CHECK_REFUSED(optimizer.catch_up(Tensor(), Tensor(row_0)), "expected a variable given to build, found none");
    CHECK(same(behind.values(), before));
    Optimizer unbuilt(momentum, caught_up);
    CHECK_REFUSED(unbuilt.catch_up(), "not built");
    CHECK_REFUSED(unbuilt.catch_up(table, Tensor(row_0)), "not built");
    Options lazy = optimizer.options();
    lazy.row_updates = RowUpdates::lazy;
    CHECK_REFUSED(optimizer.set_options(lazy), "row_updates: expected no change after build");
    Options averaged = unbuilt.options();
    averaged.use_ema = true;
    CHECK_REFUSED(unbuilt.set_options(averaged), "row_updates: expected \"lazy\"");
    // Lazy rows have nothing to catch up with.
    Optimizer resting(momentum, lazy);
    const Array own = behind.table.copy();
    resting.build({own.tensor()});
    for (int t = 0; t < 2; ++t) resting.apply({gradient_of(row_0)});
    const Values stands = values_of(own.tensor());
    resting.catch_up();
    resting.catch_up(own.tensor(), Tensor(row_1));
    CHECK(same(values_of(own.tensor()), stands));
}

TEST(levels_and_threads_give_the_same_bits) {
    std::vector<std::vector<std::byte>> found;
    constexpr std::int64_t rows = 3000, row_size = 48;
    for (const fusedopt::Rule& rule :
         {fusedopt::Rule(momentum), fusedopt::Rule(fusedopt::Lion{.beta_2 = 0.5}), fusedopt::Rule(fusedopt::AdamW{})}) {
        found.clear();
        on_every_level_and_thread_count([&](const std::string& where) {
            const Array wide(DType::float32, {rows, row_size}, numbers(DType::float32, rows * row_size, 1));
            const Array narrow(DType::bfloat16, {rows, row_size}, numbers(DType::bfloat16, rows * row_size, 2));
            Optimizer optimizer(rule, {.learning_rate = 0.01, .row_updates = RowUpdates::caught_up});
            const std::vector<Tensor> variables{wide.tensor(), narrow.tensor()};
            optimizer.build(variables);
            Draw draw(3);
            for (int t = 0; t < 400; ++t) {  // more than the history has room for
                const TableGradient first = draw_rows(draw, DType::float32, {rows, row_size}, t % 50 ? 3 : 2000);
                const TableGradient second = draw_rows(draw, DType::float32, {rows, row_size}, t % 70 ? 3 : 2000);
                optimizer.apply({first.as_rows(), second.as_rows()});
            }
            std::vector<std::int64_t> half(1500);
            std::iota(half.begin(), half.end(), 0);
            optimizer.catch_up(wide.tensor(), Tensor(half));
            found.push_back(snapshot(optimizer, variables));
            CHECK(found.back() == found.front());
            static_cast<void>(where);
        });
    }
}
