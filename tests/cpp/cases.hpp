// The cases: every rule with the variants of tests/cases.txt, every option by itself, and the ones that meet inside a
// step.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "array.hpp"
#include "variants.hpp"

struct RuleCase {
    std::string name;
    fusedopt::Rule rule;
};

struct OptionCase {
    std::string name;
    fusedopt::Options options;
};

/// The definition, summed in double. It allocates nothing, which a BLAS need not keep to.
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

inline void multiply_narrow(const fusedopt::Tensor& a, const fusedopt::Tensor& b, const fusedopt::Tensor& product) {
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

inline void multiply(const fusedopt::Tensor& a, const fusedopt::Tensor& b, const fusedopt::Tensor& product) {
    if (product.dtype() == fusedopt::DType::bfloat16) return multiply_narrow(a, b, product);
    const bool in_double = product.dtype() == fusedopt::DType::float64;
    (in_double ? multiply_elements<double> : multiply_elements<float>)(a, b, product);
}

/// A rule with the library's defaults, and what it cannot do without; then its variants.
template <class AnyRule>
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

/// Every rule with its variants.
inline std::vector<RuleCase> rule_cases() {
    const std::vector<Variant> table = table_of_variants();
    std::vector<RuleCase> cases;
    [&]<class... Rules>(const std::variant<Rules...>*) {
        (add_cases<Rules>(cases, table), ...);
    }(static_cast<const fusedopt::Rule*>(nullptr));
    return cases;
}

inline std::vector<OptionCase> option_cases() {
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

/// The thread counts and levels that every result must not depend on.
inline std::vector<int> thread_counts() {
    return fusedopt::has_threads() ? std::vector{1, 2, 3} : std::vector{1};
}

template <class Body>
void on_every_level_and_thread_count(const Body& body) {
    for (const std::string& level : fusedopt::supported_levels()) {
        fusedopt::set_level(level);
        for (const int threads : thread_counts()) {
            fusedopt::set_num_threads(threads);
            body(level + ", " + std::to_string(threads) + " threads");
        }
    }
    fusedopt::set_level(fusedopt::supported_levels().back());
    fusedopt::set_num_threads(1);
}
