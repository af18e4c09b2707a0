// Steps on tables, each for two optimizers: one is given rows, the other one the same gradients as dense ones.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "array.hpp"
#include "cases.hpp"

/// Draws numbers that are the same on every machine.
class Draw {
public:
    explicit Draw(unsigned seed) : engine_(seed) {}

    std::int64_t below(std::int64_t end) { return static_cast<std::int64_t>(engine_() % static_cast<unsigned>(end)); }
    bool once_in(std::int64_t n) { return below(n) == 0; }

    /// From -1 to 1.
    double number() { return static_cast<double>(below(2'000'001)) / 1e6 - 1.0; }

private:
    std::mt19937 engine_;
};

/// The gradient of one table in one step.
struct TableGradient {
    enum Kind { none, dense, rows };

    Kind kind = none;
    std::vector<Array> values;  // one: as is
    std::vector<std::int64_t> indices;

    fusedopt::Gradient as_rows() const {
        if (kind == none) return {};
        if (kind == dense) return values[0].tensor();
        return fusedopt::RowGradient{values[0].tensor(), Tensor(indices)};
    }

    /// The same for all rows, summed where rows are equal.
    Array as_dense(const Shape& shape) const {
        if (kind == dense) return values[0].copy();
        const Values own = values_of(values[0].tensor());
        const auto row_size = static_cast<std::size_t>(count(shape) / shape[0]);
        Values all(static_cast<std::size_t>(count(shape)), 0.0);
        for (std::size_t k = 0; k < indices.size(); ++k) {
            for (std::size_t i = 0; i < row_size; ++i) {
                all[static_cast<std::size_t>(indices[k]) * row_size + i] += own[k * row_size + i];
            }
        }
        return Array(values[0].dtype(), shape, all);
    }
};

/// Values that are multiples of 1/64, so that sums of a few are exact in every dtype.
inline TableGradient draw_rows(Draw& draw, DType dtype, const Shape& shape, std::int64_t given) {
    TableGradient gradient{TableGradient::rows, {}, {}};
    Shape own = shape;
    own[0] = given;
    Values values(static_cast<std::size_t>(count(own)));
    for (double& value : values) value = static_cast<double>(draw.below(129) - 64) / 64.0;
    for (std::int64_t k = 0; k < given; ++k) gradient.indices.push_back(draw.below(shape[0]));
    gradient.values.emplace_back(dtype, own, values);
    return gradient;
}

inline TableGradient draw_gradient(Draw& draw, DType dtype, const Shape& shape) {
    if (draw.once_in(6)) return {};
    if (draw.once_in(12)) {
        TableGradient gradient = draw_rows(draw, dtype, shape, shape[0]);
        gradient.kind = TableGradient::dense;
        return gradient;
    }
    return draw_rows(draw, dtype, shape, draw.once_in(6) ? 0 : draw.below(4));
}

/// Shapes of tables: of short and long rows, and of single elements.
inline std::vector<Shape> table_shapes() {
    return {{37, 5}, {50}, {11, 2, 3}, {70, 16}, {3, 1100}};
}

inline std::vector<Array> draw_tables(Draw& draw, DType dtype) {
    std::vector<Array> tables;
    for (const Shape& shape : table_shapes()) {
        Values values(static_cast<std::size_t>(count(shape)));
        for (double& value : values) value = draw.number();
        tables.emplace_back(dtype, shape, values);
    }
    return tables;
}

inline std::vector<Array> copies(const std::vector<Array>& arrays) {
    std::vector<Array> list;
    for (const Array& array : arrays) list.push_back(array.copy());
    return list;
}

/// Names that Muon leaves to Adam.
inline std::vector<std::string> table_names() {
    std::vector<std::string> names;
    for (std::size_t i = 0; i < table_shapes().size(); ++i) names.push_back("embedding_" + std::to_string(i));
    return names;
}
