// Gradients of rows, and rules that go row by row, with slots in 16 and 8 bits.
#include <algorithm>

#include "low_bit.hpp"
#include "row_gradients.hpp"

namespace {

const std::vector<RuleCase> rowwise_rules = {
    {"Adam rowwise", fusedopt::Adam{.rowwise = true}},
    {"Adam amsgrad rowwise", fusedopt::Adam{.amsgrad = true, .rowwise = true}},
    {"AdamW rowwise", fusedopt::AdamW{.rowwise = true}},
    {"Nadam rowwise", fusedopt::Nadam{.rowwise = true}},
    {"Yogi rowwise", fusedopt::Yogi{.rowwise = true}},
    {"RMSprop momentum rowwise", fusedopt::RMSprop{.momentum = 0.9, .rowwise = true}},
};

}  // namespace

// A tile of a dense gradient and the tile of a row have the same number, if rows are made of whole tiles.
TEST(rows_of_whole_tiles_get_the_bits_of_a_dense_gradient) {
    const std::vector<Shape> tables = {{1}, {5, 1024}, {3, 2, 1024}};
    for (const SlotDType slot_dtype : coded_dtypes) {
        for (const DType dtype : {DType::float32, DType::bfloat16}) {
            const Options options = coded(slot_dtype, 3, {.master = false});
            const std::vector<Array> dense = arrays_of(dtype, tables, 1), by_rows = arrays_of(dtype, tables, 1);
            fusedopt::Optimizer of_dense(fusedopt::Adam{}, options), of_rows(fusedopt::Adam{}, options);
            of_dense.build(tensors(dense));
            of_rows.build(tensors(by_rows));
            for (unsigned k = 0; k < step_count; ++k) {
                const std::vector<Array> gradients = arrays_of(DType::float32, tables, 100 * (k + 1));
                of_dense.apply({Tensor(), gradients[1].tensor(), gradients[2].tensor()});
                const std::vector<std::int64_t> first{0, 1, 2, 3, 4}, second{0, 1, 2};
                of_rows.apply({fusedopt::Gradient(), fusedopt::RowGradient{gradients[1].tensor(), Tensor(first)},
                               fusedopt::RowGradient{gradients[2].tensor(), Tensor(second)}});
            }
            CHECK_EQUAL(first_difference(state_of(of_rows, by_rows), state_of(of_dense, dense)), "");
        }
    }
}

TEST(rows_give_the_same_bits_everywhere_and_others_stand_still) {
    const Shape shape{90, 64};
    std::vector<RuleCase> rules = rowwise_rules;
    rules.push_back({"Adam", fusedopt::Adam{}});
    rules.push_back({"Lion", fusedopt::Lion{}});
    rules.push_back({"RMSprop", fusedopt::RMSprop{.momentum = 0.5}});
    for (const RuleCase& rule_case : rules) {
        for (const SlotDType slot_dtype : coded_dtypes) {
            for (const DType dtype : {DType::float32, DType::float16}) {
                check_same_everywhere(rule_case.name, [&] {
                    const std::vector<Array> variables = arrays_of(dtype, {shape}, 1);
                    const Values before = values_of(variables[0].tensor());
                    fusedopt::Optimizer optimizer(rule_case.rule, coded(slot_dtype, 1, {.master = false}));
                    optimizer.build(tensors(variables));
                    for (unsigned k = 0; k < step_count; ++k) {
                        std::vector<std::int64_t> rows = some_rows(40, 60, k);  // below 40, some several times
                        const Rowwise gradient(DType::float32, shape, rows, 50 + k);
                        optimizer.apply({gradient.given()});
                    }
                    const Values after = values_of(variables[0].tensor());
                    CHECK(std::equal(before.begin() + 40 * 64, before.end(), after.begin() + 40 * 64));
                    CHECK(!std::equal(before.begin(), before.begin() + 40 * 64, after.begin()));
                    return state_of(optimizer, variables);
                });
            }
        }
    }
}

TEST(a_dense_gradient_of_a_rowwise_rule_gives_the_same_bits_everywhere) {
    for (const RuleCase& rule_case : rowwise_rules) {
        for (const SlotDType slot_dtype : coded_dtypes) {
            const std::vector<Shape> tables = {{70, 64}, {9, 192}, {100}};
            const Options options = coded(slot_dtype, tables.size());
            check_same_everywhere(rule_case.name,
                                  [&] { return after_steps(rule_case.rule, options, DType::float32, tables); });
        }
    }
}
