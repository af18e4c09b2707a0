// Rules that do more than one sweep, on matrices: Adafactor's means of rows and columns, Muon's matrix products.
#include <atomic>
#include <bit>
#include <functional>
#include <span>
#include <stdexcept>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

using fusedopt::Adafactor;
using fusedopt::Muon;
using fusedopt::Optimizer;
using fusedopt::Options;

struct Caught : std::runtime_error {
    using std::runtime_error::runtime_error;
};

// More columns than a tile, stacks of matrices, hardly anything, nothing.
const std::vector<Shape> shapes_in_one_block = {{3, 2500}, {3, 2, 40, 90}, {90, 17}, {70, 1},   {1, 70},
                                                {1, 1},    {2, 0},         {0, 3},   {0, 2, 3}, {5, 0, 3}};

// A few more rows than two blocks or one, where a tile holds less than a row, one, 60 and 1024; three blocks in a row.
const std::vector<Shape> shapes_in_several_blocks = {{130, 1025}, {95, 700}, {3870, 17}, {65600, 1}, {1, 33000}};

// What an element must be close to, by the precision it was computed in.
std::string distance(const Values& found, const Values& expected, double tolerance) {
    if (found.size() != expected.size()) return "another size";
    for (std::size_t k = 0; k < found.size(); ++k) {
        if (std::fabs(found[k] - expected[k]) <= tolerance * (std::fabs(expected[k]) + 1e-2)) continue;
        std::ostringstream message;
        message.precision(17);
        message << "element " << k << " is " << found[k] << " and not about " << expected[k];
        return message.str();
    }
    return "";
}

double tolerance_of(DType dtype) {
    return dtype == DType::float64 ? 1e-12 : 1e-5;
}

/// Adafactor of one variable with at least two dimensions, straight from the paper and in double.
struct PlainAdafactor {
    Adafactor rule;
    std::int64_t rows, columns;
    Values weight, r, c, velocity;

    PlainAdafactor(const Adafactor& rule_, const Shape& shape, Values initial)
        : rule(rule_), rows(shape[shape.size() - 2]), columns(shape.back()), weight(std::move(initial)) {
        velocity.resize(weight.size());
        const std::int64_t elements = count(shape);
        r.resize(static_cast<std::size_t>(columns ? elements / columns : count({shape.begin(), shape.end() - 1})));
        Shape of_columns(shape.begin(), shape.end() - 2);
        of_columns.push_back(columns);
        c.resize(static_cast<std::size_t>(count(of_columns)));
    }

    static double root_mean_square(const Values& values) {
        double sum = 0.0;
        for (const double x : values) sum += x * x;
        return std::sqrt(sum / static_cast<double>(values.size()));
    }

    void step(const Values& g, double rate, double t) {
        if (weight.empty()) return;
        const double b = 1.0 - std::pow(t, rule.beta_2_decay);
        Values update(weight.size());
        const auto n = static_cast<std::size_t>(rows), m = static_cast<std::size_t>(columns);
        for (std::size_t first = 0; first < weight.size(); first += n * m) {
            double* const rs = r.data() + first / m;
            double* const cs = c.data() + first / n;
            for (std::size_t i = 0; i < n; ++i) rs[i] *= b;
            for (std::size_t j = 0; j < m; ++j) cs[j] *= b;
            for (std::size_t i = 0; i < n; ++i) {
                for (std::size_t j = 0; j < m; ++j) {
                    const double q = g[first + i * m + j] * g[first + i * m + j] + rule.epsilon_1;
                    rs[i] += (1.0 - b) * q / static_cast<double>(m);
                    cs[j] += (1.0 - b) * q / static_cast<double>(n);
                }
            }
            double mean = 0.0;
            for (std::size_t i = 0; i < n; ++i) mean += rs[i] / static_cast<double>(n);
            for (std::size_t i = 0; i < n; ++i) {
                for (std::size_t j = 0; j < m; ++j) {
                    const std::size_t k = first + i * m + j;
                    velocity[k] = rs[i] * cs[j] / mean;
                    update[k] = g[k] / std::sqrt(velocity[k]);
                }
            }
        }
        const double alpha = std::max(rule.epsilon_2, root_mean_square(weight)) * std::min(rate, 1.0 / std::sqrt(t));
        const double excess = std::max(1.0, root_mean_square(update) / rule.clip_threshold);
        for (std::size_t k = 0; k < weight.size(); ++k) weight[k] -= alpha * update[k] / excess;
    }
};

Values state_of(const Optimizer& optimizer, const std::string& name) {
    for (const auto& [found, tensor] : optimizer.variables()) {
        if (found == name) return values_of(tensor);
    }
    throw std::logic_error("no state of the name " + name);
}

Values transposed(const Values& values, std::size_t rows, std::size_t columns) {
    Values turned(values.size());
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t j = 0; j < columns; ++j) turned[j * rows + i] = values[i * columns + j];
    }
    return turned;
}

Values product_of(const Values& a, const Values& b, std::size_t rows, std::size_t inner, std::size_t columns) {
    Values product(rows * columns);
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t k = 0; k < inner; ++k) {
            for (std::size_t j = 0; j < columns; ++j) product[i * columns + j] += a[i * inner + k] * b[k * columns + j];
        }
    }
    return product;
}

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

const std::vector<Shape> matrices = {{5, 60}, {60, 5}, {33, 33}, {1, 40}, {40, 1}, {1, 1}, {1500, 3}, {0, 4}, {4, 0}};

/// Variables of these shapes and, for each of some steps, their gradients.
struct Arrays {
    std::vector<Array> variables;
    std::vector<std::vector<Array>> gradients;

    Arrays(const std::vector<Shape>& all, DType dtype, DType gradient_dtype, unsigned steps,
           Placement placement = Placement::at_end)
        : gradients(steps) {
        unsigned seed = 1;
        for (const Shape& shape : all) {
            variables.emplace_back(dtype, shape, numbers(dtype, count(shape), seed++), placement);
            for (std::vector<Array>& list : gradients) {
                list.emplace_back(gradient_dtype, shape, numbers(gradient_dtype, count(shape), seed++), placement);
            }
        }
    }

    /// All bytes of copies of the variables and of their state after all steps.
    std::vector<std::byte> after(const fusedopt::Rule& rule, const Options& options) const {
        std::vector<Array> copies;
        for (const Array& variable : variables) copies.push_back(variable.copy());
        Optimizer optimizer(rule, options);
        optimizer.build(tensors(copies));
        for (const std::vector<Array>& list : gradients) optimizer.apply(tensors(list));
        return snapshot(optimizer, tensors(copies));
    }
};

const Options every_phase{
    .global_clipnorm = 50.0, .use_ema = true, .ema_overwrite_frequency = 2, .gradient_accumulation_steps = 2};

constexpr Placement at_end[] = {Placement::at_end};

void check_every_level_and_thread_count(const std::vector<Shape>& all, const fusedopt::Rule& rule,
                                        std::span<const Placement> placements) {
    for (const DType dtype : all_dtypes) {
        for (const Options& options : {Options{}, every_phase}) {
            std::vector<std::byte> expected;
            for (const Placement placement : placements) {
                const Arrays arrays(all, dtype, dtype == DType::float64 ? DType::float16 : dtype, 4, placement);
                on_every_level_and_thread_count([&](const std::string& where) {
                    const std::vector<std::byte> found = arrays.after(rule, options);
                    if (expected.empty()) expected = found;
                    CHECK_EQUAL(found == expected ? "" : where, "");
                });
            }
        }
    }
}

}  // namespace

// How the memory of a block is read does not depend on how many blocks there are, so the large ones lie in one place.
TEST(adafactor_has_the_same_bits_everywhere) {
    check_every_level_and_thread_count(shapes_in_one_block, Adafactor{}, all_placements);
    check_every_level_and_thread_count(shapes_in_several_blocks, Adafactor{}, at_end);
}

TEST(adafactor_is_what_the_paper_says) {
    for (const Adafactor& rule :
         {Adafactor{}, Adafactor{.beta_2_decay = -0.5, .epsilon_1 = 1e-3, .clip_threshold = 0.3}}) {
        for (const DType dtype : {DType::float32, DType::float64}) {
            std::vector<Shape> shapes = shapes_in_one_block;
            shapes.insert(shapes.end(), shapes_in_several_blocks.begin(), shapes_in_several_blocks.end());
            const Arrays arrays(shapes, dtype, dtype, 3);
            std::vector<PlainAdafactor> expected;
            for (std::size_t i = 0; i < shapes.size(); ++i) {
                expected.emplace_back(rule, shapes[i], values_of(arrays.variables[i].tensor()));
            }
            Optimizer optimizer(rule, {.learning_rate = 0.01});
            optimizer.build(tensors(arrays.variables));
            double t = 0.0;
            for (const std::vector<Array>& list : arrays.gradients) {
                optimizer.apply(tensors(list));
                t += 1.0;
                for (std::size_t i = 0; i < shapes.size(); ++i) {
                    expected[i].step(values_of(list[i].tensor()), 0.01, t);
                    const std::string name = std::to_string(i);
                    const double tolerance = tolerance_of(dtype);
                    CHECK_EQUAL(distance(values_of(arrays.variables[i].tensor()), expected[i].weight, tolerance), "");
                    CHECK_EQUAL(distance(state_of(optimizer, "r/" + name), expected[i].r, tolerance), "");
                    CHECK_EQUAL(distance(state_of(optimizer, "c/" + name), expected[i].c, tolerance), "");
                    CHECK_EQUAL(distance(state_of(optimizer, "velocity/" + name), expected[i].velocity, tolerance), "");
                }
            }
        }
    }
}

TEST(adafactor_of_a_vector_in_several_blocks) {
    const std::int64_t size = 140000;
    for (const DType dtype : all_dtypes) {
        const Array start(dtype, numbers(dtype, size, 1)), gradient(dtype, numbers(dtype, size, 2));
        reference::Optimizer expected(Adafactor{}, {});
        expected.add(dtype, values_of(start.tensor()));
        for (int k = 0; k < 2; ++k) expected.step({{dtype, values_of(gradient.tensor())}});
        on_every_level_and_thread_count([&](const std::string& where) {
            const Array x = start.copy();
            Optimizer optimizer(Adafactor{});
            optimizer.build({x.tensor()});
            for (int k = 0; k < 2; ++k) optimizer.apply({gradient.tensor()});
            const std::string found = reference::difference(optimizer, expected, std::vector{x.tensor()});
            CHECK_EQUAL(found.empty() ? "" : where + ": " + found, "");
        });
    }
}

TEST(adafactor_takes_strided_gradients) {
    for (const DType dtype : all_dtypes) {
        for (const Shape& shape : {Shape{70, 1025}, Shape{2500, 3}, Shape{3, 40, 90}}) {
            const Values values = numbers(dtype, count(shape), 2);
            const std::size_t rank = shape.size();
            // The last two dimensions lie the other way round.
            const auto item = static_cast<std::int64_t>(item_size(dtype));
            const std::int64_t rows = shape[rank - 2], columns = shape[rank - 1];
            Shape strides(rank, rows * columns * item);
            strides[rank - 2] = item;
            strides[rank - 1] = rows * item;
            Values turned;
            const auto matrix = static_cast<std::ptrdiff_t>(rows * columns);
            for (auto begin = values.begin(); begin != values.end(); begin += matrix) {
                const Values part = transposed(Values(begin, begin + matrix), static_cast<std::size_t>(rows),
                                               static_cast<std::size_t>(columns));
                turned.insert(turned.end(), part.begin(), part.end());
            }
            const Array plain(dtype, shape, values), other(dtype, shape, turned);
            const Tensor view(static_cast<const void*>(other.data()), dtype, shape, strides);
            const Array a(dtype, shape, numbers(dtype, count(shape), 1)), b = a.copy();
            Optimizer one(Adafactor{}), two(Adafactor{});
            one.build({a.tensor()});
            two.build({b.tensor()});
            for (int k = 0; k < 2; ++k) {
                one.apply({plain.tensor()});
                two.apply({view});
            }
            CHECK(snapshot(one, std::vector{a.tensor()}) == snapshot(two, std::vector{b.tensor()}));
        }
    }
}

TEST(adafactor_keeps_little) {
    const Array a(DType::float32, Shape{300, 200}, Values(60000)), b(DType::float16, Shape{5, 20, 30}, Values(3000)),
        bias(DType::float64, Values(7));
    Optimizer optimizer(Adafactor{});
    optimizer.build(std::vector{a.tensor(), b.tensor(), bias.tensor()}, std::vector<std::string>{"a", "b", "bias"});
    const auto list = [](const std::vector<fusedopt::NamedTensor>& state) {
        std::string text;
        for (const auto& [name, tensor] : state) text += name + "=" + std::to_string(tensor.size()) + " ";
        return text;
    };
    CHECK_EQUAL(list(optimizer.state()),
                "iteration=1 learning_rate=1 r/a=300 c/a=200 r/b=100 c/b=150 velocity/bias=7 master/b=3000 ");
    CHECK_EQUAL(list(optimizer.variables()),
                "iteration=1 learning_rate=1 r/a=300 c/a=200 velocity/a=60000 r/b=100 c/b=150 velocity/b=3000 "
                "r/bias=1 c/bias=1 velocity/bias=7 ");
    CHECK_EQUAL(difference(state_of(optimizer, "velocity/a"), Values(60000)), "");
}

TEST(state_of_matrices_goes_on_bit_for_bit) {
    for (const fusedopt::Rule& rule :
         {fusedopt::Rule(Adafactor{}), fusedopt::Rule(Muon{.matrix_product = multiply, .ns_steps = 2})}) {
        for (const DType dtype : all_dtypes) {
            const Shape shape = {30, 40};
            const Array x(dtype, shape, numbers(dtype, 1200, 1));
            const Array g(DType::float32, shape, numbers(DType::float32, 1200, 2));
            Optimizer one(rule, every_phase), other(rule, every_phase);
            one.build({x.tensor()});
            for (int k = 0; k < 5; ++k) one.apply({g.tensor()});
            const Array y = x.copy();
            other.build({y.tensor()});
            std::vector<Tensor> values;
            for (const auto& [name, tensor] : one.state()) values.push_back(tensor);
            other.set_state(values);
            for (int k = 0; k < 3; ++k) {
                one.apply({g.tensor()});
                other.apply({g.tensor()});
            }
            CHECK(snapshot(one, std::vector{x.tensor()}) == snapshot(other, std::vector{y.tensor()}));
        }
    }
}

TEST(a_listed_velocity_is_only_listed) {
    const Shape shape = {30, 40};
    const Array x(DType::float32, shape, numbers(DType::float32, 1200, 1)), y = x.copy();
    const Array g(DType::float32, shape, numbers(DType::float32, 1200, 2));
    Optimizer read(Adafactor{}), unread(Adafactor{});
    read.build({x.tensor()});
    unread.build({y.tensor()});
    for (int k = 0; k < 4; ++k) {
        const Tensor velocity = read.variables().back().tensor;
        std::memset(velocity.data(), 0x55, static_cast<std::size_t>(velocity.size_bytes()));
        read.apply({g.tensor()});
        unread.apply({g.tensor()});
    }
    CHECK(snapshot(read, std::vector{x.tensor()}) == snapshot(unread, std::vector{y.tensor()}));
}

TEST(what_is_not_finite_stays_visible) {
    const auto all_nan = [](const Values& values) {
        return std::all_of(values.begin(), values.end(), [](double x) { return std::isnan(x); });
    };
    for (const fusedopt::Rule& rule :
         {fusedopt::Rule(Adafactor{}), fusedopt::Rule(Muon{.matrix_product = multiply, .ns_steps = 2})}) {
        for (const double bad : {std::nan(""), HUGE_VAL}) {
            for (const Shape& shape : {Shape{20, 30}, Shape{1, 30}, Shape{30, 1}, Shape{30}}) {
                if (std::holds_alternative<Muon>(rule) && shape.size() == 1) continue;  // that is Adam's
                Values values = numbers(DType::float32, count(shape), 2);
                values[5] = bad;
                const Array x(DType::float32, shape, numbers(DType::float32, count(shape), 1));
                Optimizer optimizer(rule);
                optimizer.build({x.tensor()});
                optimizer.apply({Array(DType::float32, shape, values).tensor()});
                CHECK(all_nan(values_of(x.tensor())));
            }
        }
    }
}

std::uint16_t narrow(double x) {
    const auto bits = std::bit_cast<std::uint32_t>(static_cast<float>(x));
    return static_cast<std::uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

double widen(std::uint16_t bits) {
    return std::bit_cast<float>(static_cast<std::uint32_t>(bits) << 16);
}

/// A product whose factors and sums are rounded to bfloat16, in float32 or in bfloat16; that of float64 stays as it is.
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
