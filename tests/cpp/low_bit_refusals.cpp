// What cannot be had in 16 or 8 bits is refused with its reason, before anything is written.
#include "low_bit.hpp"

#include <algorithm>

#include "row_gradients.hpp"

namespace {

using fusedopt::Optimizer;

const Options float8{.slot_dtype = SlotDType::float8};

}  // namespace

TEST(rules_that_eight_bits_would_spoil_say_why) {
    const std::vector<std::pair<fusedopt::Rule, std::string>> rules = {
        {fusedopt::Adadelta{}, "a ratio of two averages"},
        {fusedopt::TorchAdadelta{}, "a ratio of two averages"},
        {fusedopt::Ftrl{}, "computes a variable anew from its slots"},
        {fusedopt::ScheduleFreeAdamW{}, "holds weights"},
        {fusedopt::Adafactor{}, "nothing to save"},
        {fusedopt::RMSprop{.centered = true}, "subtracts two slots"},
        {fusedopt::TorchRMSprop{.centered = true}, "subtracts two slots"},
    };
    const Options by_name{.slot_dtypes = {{"w", SlotDType::float8}}};
    for (const auto& [rule, reason] : rules) {
        CHECK_REFUSED(Optimizer(rule, float8), reason);
        CHECK_REFUSED(Optimizer(rule, by_name), reason);
        Optimizer optimizer(rule, {.slot_dtype = SlotDType::bfloat16});
        CHECK_REFUSED(optimizer.set_options(float8), reason);
        CHECK(optimizer.options().slot_dtype == SlotDType::bfloat16);
    }
    Optimizer optimizer(fusedopt::RMSprop{}, float8);
    CHECK_REFUSED(optimizer.set_rule(fusedopt::RMSprop{.centered = true}), "subtracts two slots");
}

TEST(rows_cannot_catch_up_on_codes) {
    for (const SlotDType slot_dtype : coded_dtypes) {
        const auto caught_up = fusedopt::RowUpdates::caught_up;
        CHECK_REFUSED(Optimizer(fusedopt::Adam{}, {.row_updates = caught_up, .slot_dtype = slot_dtype}), "row_updates");
        CHECK_REFUSED(Optimizer(fusedopt::Adam{}, {.row_updates = caught_up, .slot_dtypes = {{"w", slot_dtype}}}),
                      "row_updates");
    }
}

TEST(a_refusal_names_the_option_that_asks_for_it) {
    const auto caught_up = fusedopt::RowUpdates::caught_up;
    const std::map<std::string, SlotDType> named = {{"v", SlotDType::float32}, {"w", SlotDType::float8}};
    CHECK_REFUSED(Optimizer(fusedopt::Ftrl{}, float8), "slot_dtype: expected \"float32\" or \"bfloat16\"");
    CHECK_REFUSED(Optimizer(fusedopt::Ftrl{}, {.slot_dtypes = named}), "slot_dtypes['w']: expected \"float32\" or");
    CHECK_REFUSED(Optimizer(fusedopt::Adam{}, {.row_updates = caught_up, .slot_dtype = SlotDType::bfloat16}),
                  "slot_dtype: expected \"float32\" with row_updates");
    CHECK_REFUSED(Optimizer(fusedopt::Adam{}, {.row_updates = caught_up, .slot_dtypes = named}),
                  "slot_dtypes['w']: expected \"float32\" with row_updates");
}

TEST(numbers_that_name_no_choice_are_refused) {
    const auto unknown = static_cast<SlotDType>(7);
    CHECK_REFUSED(Optimizer(fusedopt::Adam{}, {.slot_dtype = unknown}), "slot_dtype: unknown value 7");
    CHECK_REFUSED(Optimizer(fusedopt::Adam{}, {.slot_dtypes = {{"w", unknown}}}), "slot_dtypes['w']: unknown value 7");
    CHECK_REFUSED(Optimizer(fusedopt::Adam{}, {.row_updates = static_cast<fusedopt::RowUpdates>(2)}),
                  "row_updates: unknown value 2");
    Optimizer optimizer(fusedopt::Adam{}, {});
    CHECK_REFUSED(optimizer.set_options({.slot_dtype = unknown}), "slot_dtype: unknown value 7");
    CHECK(optimizer.options().slot_dtype == SlotDType::float32);
}

TEST(a_name_that_no_variable_has_is_refused_at_build) {
    const Array variable(DType::float32, numbers(DType::float32, 100, 1));
    Optimizer optimizer(fusedopt::Adam{}, {.slot_dtypes = {{"kernel", SlotDType::bfloat16}}});
    CHECK_REFUSED(optimizer.build({variable.tensor()}),
                  "slot_dtypes: expected names of this optimizer's variables, found 'kernel'");
    CHECK(!optimizer.built());
    optimizer.build(std::vector{variable.tensor()}, std::vector<std::string>{"kernel"});
    CHECK(optimizer.built());
}

TEST(rows_that_do_not_fill_blocks_are_refused_before_anything_is_written) {
    const Shape shape{500, 10};
    const std::vector<Array> variables = arrays_of(DType::float32, {shape, {5000}}, 1);
    Optimizer optimizer(fusedopt::Adam{}, float8);
    optimizer.build(tensors(variables), std::vector<std::string>{"table", "bias"});
    step(optimizer, variables, 1);
    const State before = state_of(optimizer, variables);
    const Rowwise gradient(DType::float32, shape, {1, 2}, 3);
    const Array dense(DType::float32, numbers(DType::float32, 5000, 9));
    CHECK_REFUSED(optimizer.apply({gradient.given(), dense.tensor()}),
                  "gradient of variable 0 ('table'): expected rows of a multiple of 64 elements");
    CHECK_REFUSED(optimizer.apply({gradient.given(), dense.tensor()}),
                  "found rows of 10; give this variable slots of bfloat16, with slot_dtypes={'table': 'bfloat16'}");
    CHECK(state_of(optimizer, variables) == before);
    const std::vector<Array> others = arrays_of(DType::float32, {shape, {5000}}, 1);
    Optimizer with_advice(fusedopt::Adam{},
                          {.slot_dtype = SlotDType::float8, .slot_dtypes = {{"table", SlotDType::bfloat16}}});
    with_advice.build(tensors(others), std::vector<std::string>{"table", "bias"});
    CHECK(with_advice.apply({gradient.given(), dense.tensor()}));
}

TEST(a_rowwise_rule_needs_whole_blocks_from_the_beginning) {
    const std::vector<Array> variables = arrays_of(DType::float32, {{500, 10}}, 1);
    Optimizer optimizer(fusedopt::Adam{.rowwise = true}, float8);
    CHECK_REFUSED(optimizer.build(tensors(variables)), "expected rows of a multiple of 64 elements");
    CHECK(!optimizer.built());
}

TEST(after_build_the_form_of_the_state_stays) {
    const Array variable(DType::bfloat16, numbers(DType::bfloat16, 5000, 1));
    Optimizer optimizer(fusedopt::Adam{}, {.slot_dtype = SlotDType::bfloat16, .master = false});
    optimizer.build({variable.tensor()});
    const auto is_refused = [&](Options options) {
        try {
            optimizer.set_options(options);
        } catch (const fusedopt::BuiltError&) {
            return true;
        }
        return false;
    };
    CHECK(is_refused({.slot_dtype = SlotDType::float8, .master = false}));
    CHECK(is_refused({.slot_dtype = SlotDType::bfloat16, .slot_dtypes = {{"0", SlotDType::float8}}, .master = false}));
    CHECK(is_refused({.slot_dtype = SlotDType::bfloat16}));
    CHECK(!is_refused({.slot_dtype = SlotDType::bfloat16, .seed = 9, .master = false}));
    CHECK_REFUSED(optimizer.set_options({.slot_dtype = SlotDType::bfloat16, .seed = -1, .master = false}), "seed");
}

TEST(what_is_not_coded_stays_full) {
    const std::vector<Array> of_doubles = arrays_of(DType::float64, {{5000}}, 1);
    const std::vector<Array> small = arrays_of(DType::float32, {{4095}, {4096}}, 1);
    Optimizer doubles(fusedopt::Adam{}, float8), floats(fusedopt::Adam{}, float8);
    doubles.build(tensors(of_doubles));
    floats.build(tensors(small));
    const auto dtype_of = [](const Optimizer& optimizer, const std::string& name) {
        const auto state = optimizer.state();
        return std::ranges::find(state, name, &fusedopt::NamedTensor::name)->tensor.dtype();
    };
    CHECK(dtype_of(doubles, "velocity/0") == DType::float64);
    CHECK(dtype_of(floats, "velocity/0") == DType::float32);
    CHECK(dtype_of(floats, "velocity/1") == DType::uint8);
    const std::vector<Array> table = arrays_of(DType::float32, {{100, 64}}, 1);
    Optimizer rowwise(fusedopt::Adam{.rowwise = true}, float8);
    rowwise.build(tensors(table));
    CHECK(dtype_of(rowwise, "momentum/0") == DType::uint8);
    CHECK(dtype_of(rowwise, "velocity/0") == DType::float32);
}
