// The cases and what they need. Compiled once for all programs.
#include "cases.hpp"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>
#include <variant>

#include "array.hpp"
#include "variants.hpp"

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

/// A rule with the library's defaults, and what it cannot do without; then its variants.
template <class AnyRule>
    requires(!std::is_same_v<AnyRule, fusedopt::OwnRule>)
void add_cases(std::vector<RuleCase>& cases, const std::vector<Variant>& table) {
    AnyRule plain;
    if constexpr (requires { plain.matrix_product; }) plain.matrix_product = multiply;
    cases.push_back({AnyRule::name, plain});
    const auto is_own = [](const Variant& variant) { return variant.rule == AnyRule::name; };
    const bool has_own = std::any_of(table.begin(), table.end(), is_own);
    for (const Variant& variant : table) {
        if (variant.rule != (has_own ? AnyRule::name : "*")) continue;
        RuleCase one{AnyRule::name, plain};
        for (const auto& [name, json] : variant.values) {
            if (assign(std::get<AnyRule>(one.rule), name, json)) {
                one.name += " " + name + "=" + json;
            } else if (has_own) {
                throw std::runtime_error(FUSEDOPT_CASES ": " + variant.rule + " has no " + name);
            }
        }
        cases.push_back(std::move(one));
    }
}

/// A program's own rules have tests of their own.
template <class AnyRule>
    requires std::is_same_v<AnyRule, fusedopt::OwnRule>
void add_cases(std::vector<RuleCase>&, const std::vector<Variant>&) {}

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
    const std::vector<Variant> table = table_of_variants();
    std::vector<RuleCase> cases;
    [&]<class... Rules>(const std::variant<Rules...>*) {
        (add_cases<Rules>(cases, table), ...);
    }(static_cast<const fusedopt::Rule*>(nullptr));
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
