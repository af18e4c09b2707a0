// The cases and what they need. Compiled once for all programs.
#include "cases.hpp"

#include <bit>
#include <cstddef>
#include <cstdint>
#include <utility>
#include <variant>

#include "array.hpp"

namespace {

template <class T>
void multiply_elements(const fusedopt::Tensor& a, const fusedopt::Tensor& b, const fusedopt::Tensor& product) {
    struct Matrix {
        T* first;
        std::int64_t down, across;  // elements to the next row and column

        explicit Matrix(const fusedopt::Tensor& x)
            : first(static_cast<T*>(x.data())),
              down(x.strides()[0] / std::int64_t{sizeof(T)}),
              across(x.strides()[1] / std::int64_t{sizeof(T)}) {}
    };
    const Matrix left(a), right(b), out(product);
    const std::int64_t rows = product.shape()[0], columns = product.shape()[1], inner = a.shape()[1];
    for (std::int64_t i = 0; i < rows; ++i) {
        for (std::int64_t j = 0; j < columns; ++j) {
            const T* const row = left.first + i * left.down;
            const T* const column = right.first + j * right.across;
            double sum = 0.0;
            for (std::int64_t k = 0; k < inner; ++k) {
                sum += static_cast<double>(row[k * left.across]) * static_cast<double>(column[k * right.down]);
            }
            out.first[i * out.down + j * out.across] = static_cast<T>(sum);
        }
    }
}

void multiply_narrow(const fusedopt::Tensor& a, const fusedopt::Tensor& b, const fusedopt::Tensor& product) {
    const auto address = [](const fusedopt::Tensor& x, std::int64_t i, std::int64_t j) {
        return static_cast<std::byte*>(x.data()) + i * x.strides()[0] + j * x.strides()[1];
    };
    for (std::int64_t i = 0; i < product.shape()[0]; ++i) {
        for (std::int64_t j = 0; j < product.shape()[1]; ++j) {
            double sum = 0.0;
            for (std::int64_t k = 0; k < a.shape()[1]; ++k) {
                sum += read(a.dtype(), address(a, i, k)) * read(b.dtype(), address(b, k, j));
            }
            write(product.dtype(), sum, address(product, i, j));
        }
    }
}

/// A rule with the library's defaults, and what it cannot do without.
template <class AnyRule>
RuleCase default_case() {
    AnyRule rule;
    if constexpr (requires { rule.matrix_product; }) rule.matrix_product = multiply;
    return {AnyRule::name, rule};
}

/// Variants that keep other state, or take another way.
std::vector<RuleCase> variant_cases() {
    using namespace fusedopt;
    return {
        {"SGD momentum", SGD{.momentum = 0.9}},
        {"SGD nesterov", SGD{.momentum = 0.9, .nesterov = true}},
        {"RMSprop momentum", RMSprop{.rho = 0.8, .momentum = 0.9, .epsilon = 1e-5}},
        {"RMSprop centered", RMSprop{.centered = true}},
        {"RMSprop momentum centered", RMSprop{.momentum = 0.9, .centered = true}},
        {"Adam amsgrad", Adam{.beta_1 = 0.8, .beta_2 = 0.95, .epsilon = 1e-5, .amsgrad = true}},
        {"AdamW amsgrad", AdamW{.amsgrad = true, .weight_decay = 0.01}},
        {"Adagrad from zero", Adagrad{.initial_accumulator_value = 0.0, .epsilon = 1e-3}},
        {"Adadelta otherwise", Adadelta{.rho = 0.8, .epsilon = 1e-4}},
        {"Ftrl regularized", Ftrl{.l1_regularization_strength = 0.05,
                                  .l2_regularization_strength = 0.1,
                                  .l2_shrinkage_regularization_strength = 0.02,
                                  .beta = 0.3}},
        {"Ftrl from zero", Ftrl{.initial_accumulator_value = 0.0}},
        {"Ftrl power", Ftrl{.learning_rate_power = -0.3}},
        {"ScheduleFreeAdamW warmup", ScheduleFreeAdamW{.beta_1 = 0.8, .warmup_steps = 4}},
        {"Adafactor otherwise",
         Adafactor{.beta_2_decay = -0.5, .epsilon_1 = 1e-6, .epsilon_2 = 0.01, .clip_threshold = 0.7}},
        {"Muon otherwise", Muon{.matrix_product = multiply,
                                .adam_beta_1 = 0.8,
                                .adam_beta_2 = 0.95,
                                .adam_weight_decay = 0.01,
                                .epsilon = 1e-5,
                                .adam_lr_ratio = 0.5,
                                .ns_steps = 1,
                                .nesterov = false,
                                .rms_rate = {}}},
    };
}

std::uint16_t narrow(double x) {
    const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

double widen(std::uint16_t bits) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

}  // namespace

void multiply(const fusedopt::Tensor& a, const fusedopt::Tensor& b, const fusedopt::Tensor& product) {
    if (product.dtype() == fusedopt::DType::bfloat16) return multiply_narrow(a, b, product);
    const bool in_double = product.dtype() == fusedopt::DType::float64;
    (in_double ? multiply_elements<double> : multiply_elements<float>)(a, b, product);
}

void multiply_rounded(const Tensor& a, const Tensor& b, const Tensor& product) {
    if (product.dtype() == DType::float64) return multiply(a, b, product);
    const bool is_narrow = product.dtype() == DType::bfloat16;
    const auto address = [](const Tensor& x, std::int64_t i, std::int64_t j) {
        return static_cast<std::byte*>(x.data()) + i * x.strides()[0] + j * x.strides()[1];
    };
    const auto at = [&](const Tensor& x, std::int64_t i, std::int64_t j) {
        return is_narrow ? widen(*reinterpret_cast<std::uint16_t*>(address(x, i, j)))
                         : widen(narrow(*reinterpret_cast<float*>(address(x, i, j))));
    };
    for (std::int64_t i = 0; i < product.shape()[0]; ++i) {
        for (std::int64_t j = 0; j < product.shape()[1]; ++j) {
            double sum = 0.0;
            for (std::int64_t k = 0; k < a.shape()[1]; ++k) sum += at(a, i, k) * at(b, k, j);
            if (is_narrow) {
                *reinterpret_cast<std::uint16_t*>(address(product, i, j)) = narrow(sum);
            } else {
                *reinterpret_cast<float*>(address(product, i, j)) = static_cast<float>(widen(narrow(sum)));
            }
        }
    }
}

std::vector<RuleCase> rule_cases() {
    std::vector<RuleCase> cases;
    [&]<class... Rules>(const std::variant<Rules...>*) {
        (cases.push_back(default_case<Rules>()), ...);
    }(static_cast<const fusedopt::Rule*>(nullptr));
    for (RuleCase& variant : variant_cases()) cases.push_back(std::move(variant));
    return cases;
}

std::vector<OptionCase> option_cases() {
    return {
        {"plain", {}},
        {"learning_rate", {.learning_rate = 0.1}},
        {"learning_rate function",
         {.learning_rate = [](std::int64_t step) { return 0.5 / static_cast<double>(1 + step); }}},
        {"clipnorm", {.clipnorm = 3.0}},
        {"clipvalue", {.clipvalue = 0.3}},
        {"global_clipnorm", {.global_clipnorm = 0.7}},
        {"clip values out of reach", {.global_clipnorm = 1e6}},
        {"ema", {.use_ema = true, .ema_momentum = 0.9}},
        {"skip_nonfinite", {.skip_nonfinite = true}},
        {"ema overwrite", {.use_ema = true, .ema_momentum = 0.9, .ema_overwrite_frequency = 2}},
        {"loss_scale_factor", {.loss_scale_factor = 1000.0}},
        {"accumulation", {.gradient_accumulation_steps = 3}},
        {"accumulation and the rest",
         {.learning_rate = 0.05,
          .global_clipnorm = 0.7,
          .use_ema = true,
          .ema_momentum = 0.9,
          .ema_overwrite_frequency = 2,
          .loss_scale_factor = 1000.0,
          .gradient_accumulation_steps = 2}},
        {"the rest",
         {.learning_rate = 0.05,
          .clipnorm = 2.0,
          .use_ema = true,
          .ema_momentum = 0.9,
          .ema_overwrite_frequency = 3,
          .loss_scale_factor = 256.0}},
    };
}
