// Adafactor: means of rows and columns, in blocks that are cut alike for every number of threads.
#include <algorithm>
#include <cmath>

#include "check.hpp"
#include "matrices.hpp"
#include "reference.hpp"

namespace {

using fusedopt::Adafactor;
using fusedopt::Optimizer;

// More columns than a tile or than half of one, stacks of matrices, hardly anything, nothing.
const std::vector<Shape> shapes_in_one_block = {{3, 2500}, {4, 700}, {3, 2, 10, 90}, {90, 17},  {70, 1},  {1, 70},
                                                {1, 1},    {2, 0},   {0, 3},         {0, 2, 3}, {5, 0, 3}};

// A few more rows than a block, where a tile holds less than a row, 60 and 1024; a column more than a block.
const std::vector<Shape> shapes_in_several_blocks = {{66, 1025}, {3870, 17}, {65600, 1}, {1, 16385}};

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
    const std::int64_t size = 100000;
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
