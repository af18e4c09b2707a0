// The function that multiplies matrices for Muon: what it is asked for, in which numbers, and what it must not do.
#include <atomic>
#include <cmath>
#include <functional>
#include <stdexcept>

#include "check.hpp"
#include "matrices.hpp"

namespace {

using fusedopt::Muon;
using fusedopt::Optimizer;
using fusedopt::Options;

struct Caught : std::runtime_error {
    using std::runtime_error::runtime_error;
};

}  // namespace

TEST(products_of_bfloat16_are_those_that_are_rounded) {
    const auto checked = [&](const Tensor& a, const Tensor& b, const Tensor& product) {
        CHECK(product.dtype() == DType::bfloat16 || product.dtype() == DType::float64);
        CHECK(a.dtype() == product.dtype() && b.dtype() == product.dtype());
        CHECK(product.is_contiguous());
        multiply_rounded(a, b, product);
    };
    std::vector<Shape> shapes = matrices;
    shapes.push_back({520, 3});
    for (const std::int64_t steps : {1, 2, 3}) {
        const Muon narrow_rule{.matrix_product = checked, .product_dtype = DType::bfloat16, .ns_steps = steps};
        const Muon wide_rule{.matrix_product = multiply_rounded, .ns_steps = steps};
        for (const DType dtype : all_dtypes) {
            const Arrays arrays(shapes, dtype, DType::float32, 2);
            CHECK(arrays.after(narrow_rule, {}) == arrays.after(wide_rule, {}));
        }
    }
    check_every_level_and_thread_count(
        matrices, Muon{.matrix_product = multiply_rounded, .product_dtype = DType::bfloat16, .ns_steps = 2},
        all_placements);
}

TEST(a_product_is_of_matrices_that_fit) {
    bool transposes = false;
    const auto checked = [&](const Tensor& a, const Tensor& b, const Tensor& product) {
        CHECK(a.rank() == 2 && b.rank() == 2 && product.rank() == 2);
        CHECK_EQUAL(a.shape()[1], b.shape()[0]);
        CHECK(product.shape()[0] == a.shape()[0] && product.shape()[1] == b.shape()[1]);
        CHECK(product.is_contiguous() && product.is_writable());
        CHECK(a.dtype() == product.dtype() && b.dtype() == product.dtype());
        const auto* begin = static_cast<const std::byte*>(product.data());
        CHECK(!a.touches(begin, begin + product.size_bytes()) && !b.touches(begin, begin + product.size_bytes()));
        for (const Tensor& factor : {a, b}) {
            const auto item = static_cast<std::int64_t>(item_size(factor.dtype()));
            const bool is_transposed = factor.strides()[0] == item && factor.strides()[1] == item * factor.shape()[0];
            CHECK(factor.is_contiguous() || is_transposed);
            transposes = transposes || !factor.is_contiguous();
        }
        multiply(a, b, product);
    };
    const Arrays arrays(matrices, DType::float16, DType::float32, 2);
    const Muon rule{.matrix_product = checked};
    CHECK(arrays.after(rule, {}) == arrays.after(Muon{.matrix_product = multiply}, {}));
    CHECK(transposes);
}

TEST(a_product_that_is_not_written_is_refused) {
    for (const DType dtype : {DType::float32, DType::float64, DType::bfloat16}) {
        for (int n = 1; n <= 6; ++n) {
            int left = n;
            const auto idle = [&](const Tensor& a, const Tensor& b, const Tensor& product) {
                if (--left != 0) multiply_rounded(a, b, product);
            };
            const Array x(dtype, Shape{3, 4}, numbers(dtype, 12, 1)), g(dtype, Shape{3, 4}, numbers(dtype, 12, 2));
            const DType product_dtype = dtype == DType::float64 ? DType::float32 : dtype;
            Optimizer optimizer(Muon{.matrix_product = idle, .product_dtype = product_dtype, .ns_steps = 2});
            optimizer.build({x.tensor()});
            const auto before = snapshot(optimizer, std::vector{x.tensor()});
            CHECK_REFUSED(optimizer.apply({g.tensor()}), "matrix_product: expected");
            CHECK(snapshot(optimizer, std::vector{x.tensor()}) == before);
        }
    }
}

TEST(a_product_that_throws_leaves_everything_as_it_was) {
    const Arrays arrays({{6, 9}, {9, 6}, {5}}, DType::float16, DType::float32, 3);
    int left = 0;
    const auto failing = [&](const Tensor& a, const Tensor& b, const Tensor& product) {
        multiply(a, b, product);
        if (--left == 0) throw Caught("no product today");
    };
    const Muon rule{.matrix_product = failing, .ns_steps = 2};
    const Options options{.global_clipnorm = 1.0, .use_ema = true};
    const std::vector<std::byte> expected = arrays.after(rule, options);
    for (int n = 1; n <= 2 * 2 * 3; ++n) {
        std::vector<Array> copies;
        for (const Array& variable : arrays.variables) copies.push_back(variable.copy());
        const std::vector<Tensor> variables = tensors(copies);
        Optimizer optimizer(rule, options);
        optimizer.build(variables);
        optimizer.apply(tensors(arrays.gradients[0]));
        const auto before = snapshot(optimizer, variables);
        const auto norm = optimizer.global_norm();
        left = n;
        bool is_caught = false;
        try {
            optimizer.apply(tensors(arrays.gradients[1]));
        } catch (const Caught&) {
            is_caught = true;
        }
        CHECK(is_caught);
        CHECK(snapshot(optimizer, variables) == before);
        CHECK(optimizer.global_norm() == norm);
        CHECK_EQUAL(optimizer.iterations(), 1);
        for (std::size_t k = 1; k < 3; ++k) optimizer.apply(tensors(arrays.gradients[k]));
        CHECK(snapshot(optimizer, variables) == expected);
    }
}

TEST(a_product_may_not_change_its_optimizer) {
    const Array x(DType::float32, Shape{3, 4}, numbers(DType::float32, 12, 1));
    const Array g(DType::float32, Shape{3, 4}, numbers(DType::float32, 12, 2));
    std::function<void()> meddle;
    Optimizer optimizer(Muon{.matrix_product = [&](const Tensor&, const Tensor&, const Tensor&) { meddle(); }});
    optimizer.build({x.tensor()});
    const auto before = snapshot(optimizer, std::vector{x.tensor()});
    const std::function<void()> attempts[] = {[&] { optimizer.apply({g.tensor()}); },
                                              [&] { optimizer.set_learning_rate(0.5); }};
    for (const std::function<void()>& attempt : attempts) {
        meddle = attempt;
        CHECK_REFUSED(optimizer.apply({g.tensor()}), "its own step");
        CHECK(snapshot(optimizer, std::vector{x.tensor()}) == before);
    }
}

TEST(no_product_in_a_step_that_only_accumulates) {
    std::atomic<int> products = 0;
    const auto counted = [&](const Tensor& a, const Tensor& b, const Tensor& product) {
        ++products;
        multiply(a, b, product);
    };
    const Array x(DType::float32, Shape{3, 4}, numbers(DType::float32, 12, 1)), y = x.copy();
    const Array g(DType::float32, Shape{3, 4}, numbers(DType::float32, 12, 2));
    Optimizer optimizer(Muon{.matrix_product = counted}, {.gradient_accumulation_steps = 2});
    optimizer.build({x.tensor(), y.tensor()});
    optimizer.apply({g.tensor(), g.tensor()});
    CHECK_EQUAL(products, 0);
    optimizer.apply({g.tensor(), Tensor()});  // 15 for the variable that has a gradient
    CHECK_EQUAL(products, 15);
    fusedopt::LossScaleOptimizer scaled(Optimizer(Muon{.matrix_product = counted}));
    scaled.build({x.tensor()});
    CHECK(!scaled.apply({Array(DType::float32, Shape{3, 4}, Values(12, HUGE_VAL)).tensor()}));
    CHECK_EQUAL(products, 15);
}
