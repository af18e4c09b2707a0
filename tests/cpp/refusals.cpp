// What is wrong is refused with a message that names it, before a single byte has changed.
#include <limits>

#include "array.hpp"
#include "cases.hpp"
#include "check.hpp"

namespace {

constexpr double not_a_number = std::numeric_limits<double>::quiet_NaN();
constexpr double infinity = std::numeric_limits<double>::infinity();

using fusedopt::Optimizer;
using fusedopt::Options;
using fusedopt::Rule;

Tensor view(const Array& array, std::int64_t offset_bytes, Shape shape, Shape strides = {}) {
    return Tensor(static_cast<void*>(array.data() + offset_bytes), array.dtype(), shape, strides);
}

}  // namespace

TEST(hyperparameters) {
    const auto refuse = [](const char* name, const Rule& rule, const Options& options = {}) {
        CHECK_REFUSED(Optimizer(rule, options), name);
    };
    for (const double bad : {not_a_number, infinity, -infinity, -0.1, 1.1}) {
        refuse("momentum", fusedopt::SGD{.momentum = bad});
        refuse("rho", fusedopt::RMSprop{.rho = bad});
        refuse("momentum", fusedopt::RMSprop{.momentum = bad});
        refuse("beta_1", fusedopt::Adam{.beta_1 = bad});
        refuse("beta_2", fusedopt::AdamW{.beta_2 = bad});
        refuse("ema_momentum", fusedopt::SGD{}, {.use_ema = true, .ema_momentum = bad});
    }
    for (const double bad : {not_a_number, infinity, -0.1, 1.1}) {
        refuse("rho", fusedopt::Adadelta{.rho = bad});
        refuse("beta_1", fusedopt::Adamax{.beta_1 = bad});
        refuse("beta_2", fusedopt::Nadam{.beta_2 = bad});
        refuse("beta_1", fusedopt::Lion{.beta_1 = bad});
        refuse("beta_2", fusedopt::Lamb{.beta_2 = bad});
        refuse("beta_1", fusedopt::ScheduleFreeAdamW{.beta_1 = bad});
    }
    refuse("beta_1", fusedopt::Lion{.beta_1 = 0.0});
    refuse("beta_1", fusedopt::ScheduleFreeAdamW{.beta_1 = 0.0});
    refuse("warmup_steps", fusedopt::ScheduleFreeAdamW{.warmup_steps = -1});
    for (const double bad : {not_a_number, infinity, -infinity, -0.1}) {
        refuse("initial_accumulator_value", fusedopt::Adagrad{.initial_accumulator_value = bad});
        refuse("initial_accumulator_value", fusedopt::Ftrl{.initial_accumulator_value = bad});
        refuse("l1_regularization_strength", fusedopt::Ftrl{.l1_regularization_strength = bad});
        refuse("l2_regularization_strength", fusedopt::Ftrl{.l2_regularization_strength = bad});
        refuse("l2_shrinkage", fusedopt::Ftrl{.l2_shrinkage_regularization_strength = bad});
        refuse("beta", fusedopt::Ftrl{.beta = bad});
    }
    for (const double bad : {not_a_number, infinity, -infinity, -0.1}) {
        refuse("epsilon_1", fusedopt::Adafactor{.epsilon_1 = bad});
        refuse("epsilon_2", fusedopt::Adafactor{.epsilon_2 = bad});
        refuse("clip_threshold", fusedopt::Adafactor{.clip_threshold = bad});
        refuse("adam_weight_decay", fusedopt::Muon{.matrix_product = multiply, .adam_weight_decay = bad});
        refuse("weight_decay", fusedopt::Muon{.matrix_product = multiply, .weight_decay = bad});
        refuse("epsilon", fusedopt::Muon{.matrix_product = multiply, .epsilon = bad});
        refuse("adam_lr_ratio", fusedopt::Muon{.matrix_product = multiply, .adam_lr_ratio = bad});
        refuse("momentum", fusedopt::Muon{.matrix_product = multiply, .momentum = bad});
        refuse("rms_rate", fusedopt::Muon{.matrix_product = multiply, .rms_rate = bad});
    }
    for (const double bad : {not_a_number, infinity, -infinity}) {
        refuse("beta_2_decay", fusedopt::Adafactor{.beta_2_decay = bad});
        refuse("muon_a", fusedopt::Muon{.matrix_product = multiply, .muon_a = bad});
        refuse("muon_b", fusedopt::Muon{.matrix_product = multiply, .muon_b = bad});
        refuse("muon_c", fusedopt::Muon{.matrix_product = multiply, .muon_c = bad});
    }
    refuse("beta_2_decay", fusedopt::Adafactor{.beta_2_decay = 0.1});
    refuse("clip_threshold", fusedopt::Adafactor{.clip_threshold = 0.0});
    refuse("adam_beta_1", fusedopt::Muon{.matrix_product = multiply, .adam_beta_1 = 1.0});
    refuse("adam_beta_2", fusedopt::Muon{.matrix_product = multiply, .adam_beta_2 = -0.1});
    for (const auto bad : {fusedopt::DType::float16, fusedopt::DType::float64, fusedopt::DType::int64}) {
        refuse("product_dtype", fusedopt::Muon{.matrix_product = multiply, .product_dtype = bad});
    }
    refuse("ns_steps", fusedopt::Muon{.matrix_product = multiply, .ns_steps = 0});
    refuse("rms_rate", fusedopt::Muon{.matrix_product = multiply, .rms_rate = 0.0});
    refuse("found in both", fusedopt::Muon{.matrix_product = multiply}, {.weight_decay = 0.1});
    refuse("learning_rate_power", fusedopt::Ftrl{.learning_rate_power = 0.5});
    refuse("rho", fusedopt::RMSprop{.rho = 1.0});
    refuse("beta_1", fusedopt::AdamW{.beta_1 = 1.0});
    refuse("beta_2", fusedopt::Adam{.beta_2 = 1.0});
    for (const double bad : {not_a_number, infinity, -1e-7}) {
        refuse("epsilon", fusedopt::RMSprop{.epsilon = bad});
        refuse("epsilon", fusedopt::Adam{.epsilon = bad});
        refuse("weight_decay", fusedopt::AdamW{.weight_decay = bad});
        refuse("weight_decay", fusedopt::SGD{}, {.weight_decay = bad});
        refuse("learning_rate", fusedopt::SGD{}, {.learning_rate = bad});
        refuse("clipnorm", fusedopt::SGD{}, {.clipnorm = bad});
        refuse("clipvalue", fusedopt::SGD{}, {.clipvalue = bad});
        refuse("global_clipnorm", fusedopt::SGD{}, {.global_clipnorm = bad});
        refuse("loss_scale_factor", fusedopt::SGD{}, {.loss_scale_factor = bad});
    }
    refuse("clipnorm", fusedopt::SGD{}, {.clipnorm = 0.0});
    refuse("loss_scale_factor", fusedopt::SGD{}, {.loss_scale_factor = 0.0});
    refuse("at most one", fusedopt::SGD{}, {.clipnorm = 1.0, .clipvalue = 1.0});
    refuse("found in both", fusedopt::AdamW{}, {.weight_decay = 0.1});
    refuse("ema_overwrite_frequency", fusedopt::SGD{}, {.ema_overwrite_frequency = 0});
    for (const std::int64_t bad : {1, 0, -3}) {
        refuse("gradient_accumulation_steps", fusedopt::SGD{}, {.gradient_accumulation_steps = bad});
    }
}

TEST(tensors) {
    float x = 0;
    CHECK_REFUSED(Tensor(&x, DType::float32, Shape{-1}), "negative or too large");
    CHECK_REFUSED(Tensor(&x, DType::float32, Shape{std::int64_t{1} << 40, std::int64_t{1} << 40}), "too large");
    CHECK_REFUSED(Tensor(&x, DType::float32, Shape{1, 1}, Shape{4}), "strides");
    CHECK_REFUSED(Tensor(&x, DType::float32, Shape(65, 1)), "at most 64 dimensions, found 65");
    CHECK_EQUAL(Tensor(&x, DType::float32, Shape(64, 1)).size(), 1);
    CHECK_REFUSED(Tensor(&x, static_cast<DType>(9), Shape{1}), "unknown value 9");
    CHECK_REFUSED(Tensor(static_cast<void*>(nullptr), DType::float32, Shape{1}), "null");
    CHECK_EQUAL(Tensor(static_cast<void*>(nullptr), DType::float32, Shape{0}).size(), 0);
}

TEST(variables) {
    const Array a(DType::float32, numbers(DType::float32, 100, 1)), b(DType::float64, numbers(DType::float64, 100, 2));
    const std::vector<Tensor> good = {a.tensor(), b.tensor()};
    Optimizer optimizer(fusedopt::Adam{});
    CHECK_REFUSED(optimizer.apply(good), "not built");
    CHECK_REFUSED(optimizer.finalize_variable_values(good), "not built");
    CHECK_REFUSED(optimizer.set_weights(good), "not built");
    const auto before = snapshot(optimizer, good);
    const std::int64_t number = 0;
    CHECK_REFUSED(optimizer.build({a.tensor(), Tensor()}), "variable 1: expected an array");
    CHECK_REFUSED(optimizer.build({a.tensor(), b.read_only()}), "variable 1: expected writable");
    CHECK_REFUSED(optimizer.build({Tensor(const_cast<std::int64_t*>(&number), DType::int64, Shape{})}), "found int64");
    CHECK_REFUSED(optimizer.build({view(a, 0, {10, 5}, {40, 8})}), "C-contiguous");
    CHECK_REFUSED(optimizer.build({view(a, 396, {100}, {-4})}), "C-contiguous");
    CHECK_REFUSED(optimizer.build({view(a, 0, {100}, {0})}), "C-contiguous");
    CHECK_REFUSED(optimizer.build({view(a, 1, {10})}), "misaligned");
    CHECK_REFUSED(optimizer.build({a.tensor(), b.tensor(), a.tensor()}), "overlapping variable 0");
    CHECK_REFUSED(optimizer.build({view(a, 200, {50}), b.tensor(), view(a, 0, {51})}), "overlapping variable 0");
    CHECK_REFUSED(optimizer.build(good, std::vector<std::string>{"one"}), "a name for each of 2");
    CHECK(!optimizer.built());
    CHECK(snapshot(optimizer, good) == before);
    optimizer.build({view(a, 0, {50}), b.tensor(), view(a, 200, {5, 10})});
    CHECK(optimizer.built());
    CHECK_REFUSED(optimizer.build(good), "built already, on 3 variables");
}

TEST(slots_that_are_larger_than_any_memory) {
    constexpr std::int64_t largest = std::numeric_limits<std::int64_t>::max();
    const Array none(fusedopt::DType::float32, {});
    const auto build = [&](const Rule& rule, const Shape& shape) {
        Optimizer optimizer(rule);
        optimizer.build(std::vector<Tensor>{view(none, 0, shape)});
        return optimizer.state_bytes();
    };
    const char* const message = "variable 0: expected a shape whose slots fit into memory, found (";
    for (const Shape& shape : {Shape{largest, 0, 7}, Shape{largest, 0, 1}, Shape{largest / 3, 0, 2}}) {
        CHECK_REFUSED(build(fusedopt::Adafactor{}, shape), message);
        CHECK_REFUSED(build(fusedopt::Adagrad{.rowwise = true}, shape), message);
        CHECK(build(fusedopt::Adam{}, shape) == 0);
    }
    CHECK(build(fusedopt::Adafactor{}, {largest, 0, 7, 0}) == 0);
    CHECK(build(fusedopt::Adafactor{}, {3, 0, 7}) == 4 * 3 * 7);
    CHECK(build(fusedopt::Adagrad{.rowwise = true}, {3, 0}) == 4 * 3);
}

TEST(excluded_variables) {
    const Array a(DType::float32, Values(10)), b(DType::float32, Values(10));
    Optimizer optimizer(fusedopt::AdamW{});
    optimizer.exclude_from_weight_decay(std::vector{b.tensor()});
    CHECK_REFUSED(optimizer.build({a.tensor()}), "exclude_from_weight_decay");
    optimizer.build({a.tensor(), b.tensor()});
    CHECK_REFUSED(optimizer.exclude_from_weight_decay(std::vector{a.tensor()}), "before build");
}

TEST(gradients) {
    const Array a(DType::float32, {10, 10}, numbers(DType::float32, 100, 1)),
        b(DType::bfloat16, numbers(DType::bfloat16, 60, 2));
    const Array g(DType::float16, {10, 10}, numbers(DType::float16, 100, 3)),
        h(DType::float64, numbers(DType::float64, 60, 4));
    const std::vector<Tensor> variables = {a.tensor(), b.tensor()}, good = {g.tensor(), h.tensor()};
    for (const auto& [name, options] : option_cases()) {
        Optimizer optimizer(fusedopt::Adam{}, options);
        optimizer.build(variables, std::vector<std::string>{"kernel", "bias"});
        for (int k = 0; k < 4; ++k) optimizer.apply(good);
        const auto before = snapshot(optimizer, variables);
        const std::int64_t numbers_of_another_kind[60] = {};
        const Array flat(DType::float16, Values(100)), long_one(DType::float64, Values(61)),
            one(DType::float64, Values(1));
        CHECK_REFUSED(optimizer.apply({g.tensor()}), "expected 2 gradients");
        CHECK_REFUSED(optimizer.apply({g.tensor(), h.tensor(), h.tensor()}), "expected 2 gradients");
        CHECK_REFUSED(optimizer.apply({Tensor(), Tensor()}), "No gradients provided");
        CHECK_REFUSED(optimizer.apply({flat.tensor(), h.tensor()}),
                      "gradient of variable 0 ('kernel'): expected shape (10, 10)");
        CHECK_REFUSED(optimizer.apply({g.tensor(), long_one.tensor()}),
                      "gradient of variable 1 ('bias'): expected shape (60,)");
        CHECK_REFUSED(optimizer.apply({g.tensor(), one.tensor()}), "expected shape (60,)");
        CHECK_REFUSED(optimizer.apply({g.tensor(), Tensor(&numbers_of_another_kind, DType::int64, Shape{60})}),
                      "int64");
        CHECK_REFUSED(optimizer.apply({a.tensor(), h.tensor()}), "overlapping variable 0 ('kernel')");
        CHECK_REFUSED(optimizer.apply({g.tensor(), view(a, 0, {60})}), "overlapping variable 0 ('kernel')");
        CHECK_REFUSED(optimizer.apply({g.tensor(), view(a, 396, {60}, {0})}), "overlapping variable 0 ('kernel')");
        CHECK_REFUSED(optimizer.apply({g.tensor(), view(a, 240, {60}, {-4})}), "overlapping variable 0 ('kernel')");
        CHECK_REFUSED(optimizer.apply({optimizer.variables().back().tensor, h.tensor()}), "expected");
        CHECK_REFUSED(optimizer.apply(good, std::vector{a.tensor()}), "expected 1 gradients");
        CHECK_REFUSED(optimizer.apply(good, std::vector{a.tensor(), h.tensor()}), "variable at position 1");
        CHECK_REFUSED(optimizer.apply(good, std::vector{a.tensor(), view(b, 0, {59})}), "variable at position 1");
        CHECK_REFUSED(optimizer.apply(std::vector{g.tensor(), g.tensor()}, std::vector{a.tensor(), a.tensor()}),
                      "twice");
        CHECK(snapshot(optimizer, variables) == before);
        for (int k = 0; k < 4; ++k) optimizer.apply(good);
        CHECK(snapshot(optimizer, variables) != before);
    }
}

TEST(gradients_that_are_state) {
    const Array a(DType::float32, numbers(DType::float32, 100, 1));
    Optimizer optimizer(fusedopt::Adam{});
    optimizer.build({a.tensor()});
    const auto before = snapshot(optimizer, std::vector{a.tensor()});
    const auto state = optimizer.variables();
    CHECK_REFUSED(optimizer.apply({state[2].tensor}), "apart from the optimizer's state");
    CHECK_REFUSED(optimizer.apply({state[3].tensor}), "apart from the optimizer's state");
    CHECK(snapshot(optimizer, std::vector{a.tensor()}) == before);
}

TEST(weights) {
    const Array a(DType::float32, {10, 10}, numbers(DType::float32, 100, 1));
    Optimizer optimizer(fusedopt::Adam{});
    optimizer.build({a.tensor()});
    optimizer.apply({Array(DType::float32, {10, 10}, numbers(DType::float32, 100, 2)).tensor()});
    const auto before = snapshot(optimizer, std::vector{a.tensor()});
    std::vector<Tensor> good;
    for (const auto& [name, tensor] : optimizer.variables()) good.push_back(tensor);
    const Array zeros(DType::float32, {10, 10}, Values(100)), flat(DType::float32, Values(100)),
        wide(DType::float64, {10, 10}, Values(100));
    const Array negative(DType::float64, Shape{}, Values{-1.0});
    std::int64_t minus_one = -1;
    good[2] = zeros.tensor();
    const auto with = [&](std::size_t k, const Tensor& tensor) {
        std::vector<Tensor> list = good;
        list[k] = tensor;
        return list;
    };
    CHECK_REFUSED(optimizer.set_weights(std::vector<Tensor>(good.begin(), good.end() - 1)), "expected 4 arrays");
    CHECK_REFUSED(optimizer.set_weights(with(3, Tensor())), "found none");
    CHECK_REFUSED(optimizer.set_weights(with(3, flat.tensor())), "shape (10, 10)");
    CHECK_REFUSED(optimizer.set_weights(with(3, wide.tensor())), "float32");
    CHECK_REFUSED(optimizer.set_weights(with(3, view(zeros, 0, {10, 10}, {4, 40}))), "contiguous");
    CHECK_REFUSED(optimizer.set_weights(with(1, negative.tensor())), "learning_rate");
    CHECK_REFUSED(optimizer.set_weights(with(0, Tensor(&minus_one, DType::int64, Shape{}))), "iteration");
    CHECK(snapshot(optimizer, std::vector{a.tensor()}) == before);
}

TEST(finalized_variables) {
    const Array a(DType::float32, numbers(DType::float32, 100, 1)), b(DType::float32, numbers(DType::float32, 100, 2));
    Optimizer optimizer(fusedopt::SGD{}, {.use_ema = true});
    optimizer.build({a.tensor(), b.tensor()});
    const auto before = snapshot(optimizer, std::vector{a.tensor(), b.tensor()});
    CHECK_REFUSED(optimizer.finalize_variable_values(std::vector{a.tensor()}), "expected 2 variables");
    CHECK_REFUSED(optimizer.finalize_variable_values(std::vector{b.tensor(), a.tensor()}), "in their order");
    CHECK(snapshot(optimizer, std::vector{a.tensor(), b.tensor()}) == before);
}

TEST(settings) {
    CHECK_REFUSED(fusedopt::set_level("x86_64_v9"), "expected a level this machine supports");
    CHECK_REFUSED(fusedopt::set_num_threads(0), "num_threads");
    CHECK_REFUSED(fusedopt::set_num_threads(-1), "num_threads");
    CHECK_REFUSED(fusedopt::set_num_threads(1 << 20), "num_threads");
}

TEST(coupled_weight_decay_reaches_every_variable) {
    const Array a(DType::float32, Values{1, 2}), b(DType::float32, Values{3});
    const std::vector<Tensor> excluded = {a.tensor()};
    const fusedopt::Rule coupled[] = {fusedopt::TorchAdam{.weight_decay = 0.1},
                                      fusedopt::TorchSGD{.momentum = 0.9, .weight_decay = 0.1}};
    for (const fusedopt::Rule& rule : coupled) {
        fusedopt::Optimizer refused(rule);
        CHECK_REFUSED(refused.exclude_from_weight_decay(excluded),
                      "expected decoupled weight decay, found that of Torch");
        refused.exclude_from_weight_decay({});
        refused.build({a.tensor(), b.tensor()});
    }
    fusedopt::Optimizer optimizer(fusedopt::TorchAdam{});
    optimizer.exclude_from_weight_decay(excluded);
    CHECK_REFUSED(optimizer.set_rule(fusedopt::TorchAdam{.weight_decay = 0.1}), "expected decoupled weight decay");
    optimizer.build({a.tensor(), b.tensor()});
    CHECK_REFUSED(optimizer.set_rule(fusedopt::TorchAdam{.weight_decay = 0.1}), "expected decoupled weight decay");
    optimizer.set_rule(fusedopt::TorchAdam{.weight_decay = 0.1, .decoupled_weight_decay = true});
    const Array gradient(DType::float32, Values{0, 0}), other(DType::float32, Values{0});
    optimizer.apply({gradient.tensor(), other.tensor()});
    CHECK_EQUAL(values_of(a.tensor())[1], 2.0);
    CHECK(values_of(b.tensor())[0] < 3.0);
}
