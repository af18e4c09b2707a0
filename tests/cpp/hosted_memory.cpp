// Memory that a hosted step is given: layouts it sweeps, and what it refuses before it writes anything.
#include <algorithm>
#include <limits>

#include "check.hpp"
#include "hosted.hpp"

using fusedopt::HostedGroup;
using fusedopt::HostedOptions;
using fusedopt::HostedStep;
using fusedopt::HostedVariable;

namespace {

const fusedopt::Rule adam = fusedopt::TorchAdam{};

void run(HostedVariable variable, const fusedopt::Rule& rule = adam, const HostedOptions& options = {}) {
    const HostedGroup group{.rule = rule, .variables = {&variable, 1}};
    HostedStep().run({&group, 1}, options);
}

/// The same memory, its dimensions in another order.
Tensor permuted(const Array& array, const std::vector<std::size_t>& order) {
    const Tensor tensor = array.tensor();
    Shape shape, strides;
    for (const std::size_t d : order) {
        shape.push_back(tensor.shape()[d]);
        strides.push_back(tensor.strides()[d]);
    }
    return Tensor(static_cast<void*>(array.data()), array.dtype(), shape, strides);
}

}  // namespace

TEST(a_variable_may_have_its_dimensions_in_any_order) {
    const std::vector<std::vector<std::size_t>> orders = {{0, 1, 2, 3}, {3, 0, 1, 2}, {1, 0, 3, 2}, {3, 2, 1, 0}};
    for (const DType dtype : all_dtypes) {
        const Shape shape = {3, 5, 1, 70};
        const std::int64_t size = count(shape);
        const Array given(dtype, shape, numbers(dtype, size, 1));
        const Array gradient(DType::float32, shape, numbers(DType::float32, size, 2));
        const Kept plain(given);
        run(plain.hosted(gradient.tensor(), 2));
        for (const std::vector<std::size_t>& order : orders) {
            const Kept kept(given);
            HostedVariable variable = kept.hosted(permuted(gradient, order), 2);
            variable.variable = permuted(kept.variable, order);
            for (std::size_t k = 0; k < 2; ++k) variable.slots[k] = permuted(kept.slots[k], order);
            if (variable.master) variable.master = permuted(kept.master, order);
            run(variable);
            CHECK(kept.bytes() == plain.bytes());
        }
    }
}

TEST(a_gradient_may_have_any_strides) {
    const Array given(DType::float32, Shape{30, 70}, numbers(DType::float32, 2100, 1));
    const Values values = numbers(DType::float64, 2100, 2);
    const Array gradient(DType::float64, Shape{30, 70}, values);
    const Array across(DType::float64, Shape{70, 30}, transposed(values, 30, 70));
    for (const bool turns_variable : {false, true}) {
        const Kept expected(given), found(given);
        run(expected.hosted(gradient.tensor(), 2));
        HostedVariable variable = found.hosted(permuted(across, {1, 0}), 2);
        if (turns_variable) {
            variable.gradient = across.tensor();
            variable.variable = permuted(found.variable, {1, 0});
            for (std::size_t k = 0; k < 2; ++k) variable.slots[k] = permuted(found.slots[k], {1, 0});
        }
        run(variable);
        CHECK(expected.bytes() == found.bytes());
    }
    // One number for all elements.
    const Array one(DType::float32, Values{0.5});
    const Array many(DType::float32, Shape{30, 70}, Values(2100, 0.5));
    const Kept expected(given), found(given);
    run(expected.hosted(many.tensor(), 2));
    run(found.hosted(Tensor(static_cast<void*>(one.data()), DType::float32, Shape{30, 70}, Shape{0, 0}), 2));
    CHECK(expected.bytes() == found.bytes());
    // Not aligned.
    std::vector<std::byte> bytes(2100 * 4 + 1);
    std::copy_n(many.data(), 2100 * 4, bytes.data() + 1);
    const Kept moved(given);
    run(moved.hosted(Tensor(static_cast<void*>(bytes.data() + 1), DType::float32, Shape{30, 70}), 2));
    CHECK(expected.bytes() == moved.bytes());
}

namespace {

/// A good call, into which a test puts something bad.
struct Call {
    std::vector<Kept> kept;
    std::vector<Array> gradients;
    std::vector<HostedVariable> variables;
    HostedGroup groups[2];
    HostedOptions options = {};
    HostedStep step;

    explicit Call(DType dtype = DType::float32) {
        for (unsigned i = 0; i < 4; ++i) {
            kept.emplace_back(Array(dtype, Shape{3, 4}, numbers(dtype, 12, i)));
            gradients.emplace_back(DType::float32, Shape{3, 4}, numbers(DType::float32, 12, 10 + i));
            variables.push_back(kept[i].hosted(gradients[i].tensor(), 2));
        }
        groups[0] = {.rule = adam, .variables = std::span(variables).first(1)};
        groups[1] = {.rule = adam, .variables = std::span(variables).subspan(1)};
    }

    HostedVariable& last() { return variables.back(); }
    void run() { step.run(groups, options); }
    std::vector<std::byte> bytes() const { return bytes_of(kept); }
};

template <class Spoil>
void check_refused(const std::string& part, const Spoil& spoil, DType dtype = DType::float32) {
    Call call(dtype);
    call.run();
    const std::vector<HostedVariable> good = call.variables;
    spoil(call);
    const std::vector<std::byte> before = call.bytes();
    CHECK_REFUSED(call.run(), part);
    CHECK(call.bytes() == before);
    Call fresh(dtype);
    CHECK_REFUSED((spoil(fresh), fresh.run()), part);
    CHECK_REFUSED(call.run(), part);
    std::ranges::copy(good, call.variables.begin());
    for (HostedGroup& group : call.groups) group = {.rule = adam, .variables = group.variables};
    call.options = {};
    call.run();  // a refused call leaves nothing behind
    CHECK(call.bytes() != before);
}

Tensor with_strides(const Array& array, const Shape& shape, const Shape& strides) {
    return Tensor(static_cast<void*>(array.data()), array.dtype(), shape, strides);
}

}  // namespace

TEST(memory_that_cannot_be_swept_is_refused) {
    check_refused("group 1, parameter 2: expected an array", [](Call& c) { c.last().variable = {}; });
    check_refused("group 1, parameter 2: exp_avg_sq: expected an array, found none",
                  [](Call& c) { c.last().slots[1] = {}; });
    check_refused("group 1, parameter 2: expected 2 slots, found more",
                  [](Call& c) { c.last().slots[2] = c.kept[3].slots[2].tensor(); });
    check_refused("group 1, parameter 2: gradient: expected shape (3, 4), found (4, 3)",
                  [](Call& c) { c.last().gradient = with_strides(c.gradients[3], {4, 3}, {}); });
    check_refused("group 1, parameter 2: exp_avg: expected shape (3, 4), found (12,)",
                  [](Call& c) { c.last().slots[0] = with_strides(c.kept[3].slots[0], {12}, {}); });
    check_refused("exp_avg: expected float32, found float64", [](Call& c) {
        static const Array wide(DType::float64, Shape{3, 4}, Values(12));
        c.last().slots[0] = wide.tensor();
    });
    check_refused(
        "exp_avg: expected float64, found float32",
        [](Call& c) {
            static const Array narrow(DType::float32, Shape{3, 4}, Values(12));
            c.last().slots[0] = narrow.tensor();
        },
        DType::float64);
    check_refused("expected writable memory", [](Call& c) { c.last().variable = c.kept[3].variable.read_only(); });
    check_refused("exp_avg: expected writable memory",
                  [](Call& c) { c.last().slots[0] = c.kept[3].slots[0].read_only(); });
    check_refused("leave gaps or repeat", [](Call& c) {
        for (Tensor* tensor : {&c.last().variable, &c.last().slots[0], &c.last().slots[1], &c.last().gradient}) {
            *tensor = Tensor(tensor->data(), DType::float32, Shape{2, 2}, Shape{16, 8});
        }
    });
    check_refused("leave gaps or repeat",
                  [](Call& c) { c.last().variable = with_strides(c.kept[3].variable, {3, 4}, {0, 4}); });
    check_refused("leave gaps or repeat", [](Call& c) {
        c.last().variable =
            Tensor(static_cast<void*>(c.kept[3].variable.data() + 44), DType::float32, Shape{3, 4}, Shape{-16, -4});
    });
    check_refused("exp_avg_sq: expected its elements in memory in the same order",
                  [](Call& c) { c.last().slots[1] = with_strides(c.kept[3].slots[1], {3, 4}, {4, 12}); });
    check_refused("gradient: expected float16, bfloat16, float32 or float64, found int64", [](Call& c) {
        static const std::vector<std::int64_t> integers(12);
        c.last().gradient = Tensor(static_cast<const void*>(integers.data()), DType::int64, Shape{3, 4});
    });
    check_refused("group 1, parameter 2: expected memory aligned to its element size", [](Call& c) {
        static std::vector<std::byte> bytes(64);
        c.last().variable = Tensor(static_cast<void*>(bytes.data() + 1), DType::float32, Shape{3, 4});
    });
    check_refused("master copy: expected none of a variable of float32",
                  [](Call& c) { c.last().master = c.kept[3].master.tensor(); });
    check_refused(
        "master copy: expected shape (3, 4), found (12,)",
        [](Call& c) { c.last().master = with_strides(c.kept[3].master, {12}, {}); }, DType::float16);
    check_refused("average: expected shape (3, 4), found (12,)",
                  [](Call& c) { c.last().average = with_strides(c.kept[3].average, {12}, {}); });
}

TEST(numbers_out_of_range_are_refused) {
    static constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    check_refused("group 1, parameter 2: step: expected the number of an update, from 1 to 2^53, found 0",
                  [](Call& c) { c.last().step = 0; });
    check_refused("found 9007199254740993", [](Call& c) { c.last().step = (std::int64_t{1} << 53) + 1; });
    check_refused("group 1: learning_rate: expected a finite number >= 0, found -1",
                  [](Call& c) { c.groups[1].learning_rate = -1.0; });
    check_refused("group 1: learning_rate", [](Call& c) { c.groups[1].learning_rate = nan; });
    check_refused("group 1: weight_decay", [](Call& c) { c.groups[1].weight_decay = -1.0; });
    check_refused("group 1: weight_decay: expected in the rule or in the group, found in both", [](Call& c) {
        c.groups[1].rule = fusedopt::TorchAdamW{};
        c.groups[1].weight_decay = 0.0;
    });
    check_refused("group 1: ema_momentum", [](Call& c) { c.groups[1].ema_momentum = 1.5; });
    check_refused("group 1: beta_1", [](Call& c) { c.groups[1].rule = fusedopt::TorchAdam{.beta_1 = 1.0}; });
    check_refused("group 1: beta_2: expected a number, found a function",
                  [](Call& c) { c.groups[1].rule = fusedopt::TorchAdam{.beta_2 = [](std::int64_t) { return 0.9; }}; });
    check_refused("group 1: rule: expected one that is a formula for each element, found Lamb",
                  [](Call& c) { c.groups[1].rule = fusedopt::Lamb{}; });
    check_refused("found Adafactor", [](Call& c) { c.groups[1].rule = fusedopt::Adafactor{}; });
    check_refused("found Muon", [](Call& c) { c.groups[1].rule = fusedopt::Muon{}; });
    check_refused("unscale: expected a finite number > 0, found 0", [](Call& c) { c.options.unscale = 0.0; });
    check_refused("max_norm: expected a number >= 0, found -1", [](Call& c) { c.options.max_norm = -1.0; });
    check_refused("max_norm", [](Call& c) { c.options.max_norm = nan; });
    check_refused("clipnorm", [](Call& c) { c.options.clipnorm = 0.0; });
}

TEST(memory_that_overlaps_is_refused) {
    check_refused("exp_avg of group 1, parameter 2: expected memory of its own, found it overlapping",
                  [](Call& c) { c.last().slots[0] = c.kept[0].variable.tensor(); });
    check_refused("overlapping", [](Call& c) { c.last().slots[0] = c.last().slots[1]; });
    check_refused("overlapping", [](Call& c) { c.last().average = c.last().slots[1]; });
    check_refused("overlapping", [](Call& c) { c.last() = c.variables[0]; });
    check_refused(
        "gradient of group 1, parameter 2: expected memory of its own, found it overlapping the variable of "
        "group 0, parameter 0",
        [](Call& c) { c.last().gradient = c.kept[0].variable.tensor(); });
    check_refused("gradient of group 1, parameter 2", [](Call& c) { c.last().gradient = c.last().slots[0]; });
    check_refused("gradient of group 1, parameter 2",
                  [](Call& c) { c.last().gradient = with_strides(c.kept[3].slots[0], {3, 4}, {4, 12}); });
    check_refused("overlapping", [](Call& c) { c.last().master = c.variables[0].master; }, DType::float16);
}

TEST(gradients_may_share_memory) {
    Call call;
    for (HostedVariable& variable : call.variables) variable.gradient = call.gradients[0].tensor();
    call.run();
    for (HostedVariable& variable : call.variables) {
        variable.gradient = with_strides(call.gradients[0], {3, 4}, {0, 0});
    }
    call.run();
}

// A strided gradient may step over memory that is written, and another of the same bounds may not.
TEST(a_gradient_between_elements_of_a_slot_is_looked_at_each_time) {
    Values values(24);
    const Array memory(DType::float32, values);
    const Array gradient(DType::float32, Shape{3}, Values{1, 2, 3});
    const auto at = [&](std::int64_t element, std::int64_t stride) {
        return Tensor(static_cast<void*>(memory.data() + 4 * element), DType::float32, Shape{3}, Shape{4 * stride});
    };
    HostedVariable variable{.variable = at(0, 1), .gradient = at(3, 5)};
    variable.slots[0] = at(5, 1);
    variable.slots[1] = at(9, 1);
    const HostedGroup group{.rule = adam, .variables = {&variable, 1}};
    HostedStep step;
    step.run({&group, 1});
    variable.gradient = at(3, 3);
    CHECK_REFUSED(step.run({&group, 1}), "gradient of group 0, parameter 0");
    variable.gradient = at(3, 5);
    step.run({&group, 1});
    variable.gradient = at(12, 1);
    step.run({&group, 1});
}

TEST(scalars_and_empty_variables_are_no_error) {
    const Kept scalar(Array(DType::float32, Shape{}, Values{1.0})), empty(Array(DType::float32, Shape{0, 3}, {}));
    const Array gradient(DType::float32, Shape{}, Values{2.0}), nothing(DType::float32, Shape{0, 3}, {});
    std::vector<HostedVariable> variables = {empty.hosted(nothing.tensor(), 2), scalar.hosted(gradient.tensor(), 2),
                                             empty.hosted(nothing.tensor(), 2)};
    const HostedGroup groups[] = {{.rule = adam, .variables = variables}, {.rule = adam}};
    CHECK_EQUAL(HostedStep().run(groups, {.max_norm = 10.0}).norm.value(), 2.0);
    CHECK(values_of(scalar.variable.tensor())[0] < 1.0);
}

TEST(more_counts_than_a_sweep_tells_apart_are_refused) {
    constexpr std::size_t most = 65536;
    std::vector<float> weights(most + 1, 1.0f), gradients(most + 1, 1.0f);
    std::vector<HostedVariable> variables(most + 1);
    for (std::size_t i = 0; i <= most; ++i) {
        variables[i].variable = Tensor(std::span(&weights[i], 1));
        variables[i].gradient = Tensor(std::span(&gradients[i], 1));
        variables[i].step = static_cast<std::int64_t>(i) + 1;
    }
    HostedGroup group{.rule = fusedopt::SGD{}, .learning_rate = 0.5, .variables = variables};
    HostedStep step;
    CHECK_REFUSED(step.run({&group, 1}), "expected at most 65536 different groups and counts");
    CHECK(std::ranges::all_of(weights, [](float w) { return w == 1.0f; }));
    group.variables = std::span(variables).first(most);
    step.run({&group, 1});
    CHECK_EQUAL(std::ranges::count(weights, 0.5f), static_cast<std::ptrdiff_t>(most));
}
