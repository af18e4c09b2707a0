// Muon: orthogonal directions of matrices, and what it leaves to Adam.
#include <algorithm>
#include <cmath>
#include <span>
#include <stdexcept>

#include "check.hpp"
#include "matrices.hpp"

namespace {

using fusedopt::Muon;
using fusedopt::Optimizer;

struct Caught : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Newton-Schulz in double, on the side that the paper takes: rows <= columns.
Values made_orthogonal(const Muon& rule, Values x, std::size_t rows, std::size_t columns) {
    if (rows > columns) {
        return transposed(made_orthogonal(rule, transposed(x, rows, columns), columns, rows), columns, rows);
    }
    double sum = 0.0;
    for (const double e : x) sum += e * e;
    for (double& e : x) e /= std::sqrt(sum) + 1e-7;
    for (std::int64_t k = 0; k < rule.ns_steps; ++k) {
        const Values gram = product_of(x, transposed(x, rows, columns), rows, columns, rows);
        Values polynomial = product_of(gram, gram, rows, rows, rows);
        for (std::size_t i = 0; i < gram.size(); ++i) {
            polynomial[i] = rule.muon_b * gram[i] + rule.muon_c * polynomial[i];
        }
        const Values more = product_of(polynomial, x, rows, rows, columns);
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = rule.muon_a * x[i] + more[i];
    }
    return x;
}

/// Muon of one matrix, in double.
struct PlainMuon {
    Muon rule;
    std::size_t rows, columns;
    Values weight, momentum;

    PlainMuon(const Muon& rule_, const Shape& shape, Values initial)
        : rule(rule_),
          rows(static_cast<std::size_t>(shape[0])),
          columns(static_cast<std::size_t>(shape[1])),
          weight(std::move(initial)),
          momentum(weight.size()) {}

    void step(const Values& g, double rate) {
        if (weight.empty()) return;
        Values direction(weight.size());
        for (std::size_t k = 0; k < weight.size(); ++k) {
            momentum[k] = rule.momentum * momentum[k] + g[k];
            direction[k] = rule.nesterov ? g[k] + rule.momentum * momentum[k] : momentum[k];
        }
        const Values orthogonal = made_orthogonal(rule, direction, rows, columns);
        const double size =
            rule.rms_rate ? std::sqrt(static_cast<double>(std::max(rows, columns))) * *rule.rms_rate : 1.0;
        for (std::size_t k = 0; k < weight.size(); ++k) {
            weight[k] = weight[k] * (1.0 - rule.weight_decay * rate) - rate * size * orthogonal[k];
        }
    }
};

}  // namespace

TEST(muon_has_the_same_bits_everywhere) {
    check_every_level_and_thread_count(matrices, Muon{.matrix_product = multiply, .ns_steps = 3}, all_placements);
    // Large enough for threads.
    check_every_level_and_thread_count({{2, 17000}, {17000, 2}, {7}}, Muon{.matrix_product = multiply, .ns_steps = 1},
                                       at_end);
}

TEST(muon_is_what_the_paper_says) {
    for (const Muon& rule : {Muon{.matrix_product = multiply}, Muon{.matrix_product = multiply,
                                                                    .weight_decay = 0.0,
                                                                    .momentum = 0.8,
                                                                    .ns_steps = 2,
                                                                    .nesterov = false,
                                                                    .rms_rate = {}}}) {
        for (const DType dtype : {DType::float32, DType::float64}) {
            const Arrays arrays(matrices, dtype, dtype, 3);
            std::vector<PlainMuon> expected;
            for (std::size_t i = 0; i < matrices.size(); ++i) {
                expected.emplace_back(rule, matrices[i], values_of(arrays.variables[i].tensor()));
            }
            Optimizer optimizer(rule, {.learning_rate = 0.01});
            optimizer.build(tensors(arrays.variables));
            for (const std::vector<Array>& list : arrays.gradients) {
                optimizer.apply(tensors(list));
                for (std::size_t i = 0; i < matrices.size(); ++i) {
                    expected[i].step(values_of(list[i].tensor()), 0.01);
                    CHECK_EQUAL(
                        distance(values_of(arrays.variables[i].tensor()), expected[i].weight, tolerance_of(dtype)), "");
                }
            }
        }
    }
}

TEST(symmetric_products_are_asked_for_up_to_the_diagonal) {
    for (const Shape& shape : {Shape{20, 30}, Shape{30, 20}, Shape{514, 515}}) {
        std::int64_t work = 0;
        const auto counted = [&](const Tensor& a, const Tensor& b, const Tensor& product) {
            CHECK(product.is_contiguous());
            work += product.size() * a.shape()[1];
            multiply(a, b, product);
        };
        const Muon rule{.matrix_product = counted, .ns_steps = 1};
        const Arrays arrays({shape}, DType::float32, DType::float32, 1);
        PlainMuon expected(rule, shape, values_of(arrays.variables[0].tensor()));
        expected.step(values_of(arrays.gradients[0][0].tensor()), 0.01);
        Optimizer optimizer(rule, {.learning_rate = 0.01});
        optimizer.build(tensors(arrays.variables));
        optimizer.apply(tensors(arrays.gradients[0]));
        CHECK_EQUAL(distance(values_of(arrays.variables[0].tensor()), expected.weight, tolerance_of(DType::float32)),
                    "");
        const std::int64_t side = std::min(shape[0], shape[1]), length = std::max(shape[0], shape[1]);
        const std::int64_t symmetric = side * side * (side + length);
        CHECK_EQUAL(work - side * side * length, side < 512 ? symmetric : symmetric / 4 * 3);
    }
}

TEST(muon_leaves_to_adam_what_is_excluded) {
    const Muon::Exclusion excluded = Muon::excluding({"head", "^block_[13]/"}), plain = Muon::excluding({}, false);
    for (const char* name : {"my/head", "heads", "block_1/kernel", "block_3/x", "Embedding/w", "token_EMBEDDINGS"}) {
        CHECK(excluded(name));
        CHECK(!plain(name));
    }
    for (const char* name : {"", "Head", "block_2/kernel", "a/block_1/kernel", "embed"}) CHECK(!excluded(name));
    CHECK_REFUSED(Muon::excluding({"kernel", "("}), "exclude_layers: expected a regular expression, found '('");

    const std::vector<std::string> names = {"body", "head", "Embedding", "bias", "volume"};
    const Arrays arrays({{3, 4}, {3, 4}, {3, 4}, {4}, {2, 3, 4}}, DType::float32, DType::float32, 3);
    const Muon rule{.matrix_product = multiply, .excludes = Muon::excluding({"head"})};
    Optimizer optimizer(rule);
    optimizer.build(tensors(arrays.variables), names);
    std::string found;
    for (const auto& [name, tensor] : optimizer.variables()) found += name + " ";
    CHECK_EQUAL(found,
                "iteration learning_rate momentum/body momentum/head velocity/head momentum/Embedding "
                "velocity/Embedding momentum/bias velocity/bias momentum/volume velocity/volume ");
    // The excluded do what AdamW does.
    std::vector<Array> copies;
    for (std::size_t i = 1; i < 5; ++i) copies.push_back(arrays.variables[i].copy());
    Optimizer adam(fusedopt::AdamW{.weight_decay = 0.004});
    adam.build(tensors(copies));
    for (const std::vector<Array>& list : arrays.gradients) {
        optimizer.apply(tensors(list));
        adam.apply(tensors(std::span(list).subspan(1)));
    }
    for (std::size_t i = 1; i < 5; ++i) {
        CHECK_EQUAL(difference(values_of(arrays.variables[i].tensor()), values_of(copies[i - 1].tensor())), "");
    }
}

TEST(functions_of_muon) {
    CHECK_REFUSED(Optimizer(Muon{}), "matrix_product");
    CHECK_REFUSED(Optimizer(Muon{.matrix_product = multiply, .excludes = nullptr}), "excludes");
    const Array x(DType::float32, Shape{3, 4}, Values(12));
    Optimizer optimizer(Muon{.matrix_product = multiply,
                             .excludes = [](const std::string&) -> bool { throw Caught("no names today"); }});
    bool is_caught = false;
    try {
        optimizer.build({x.tensor()});
    } catch (const Caught&) {
        is_caught = true;
    }
    CHECK(is_caught && !optimizer.built());
}
