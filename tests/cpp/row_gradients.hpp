// Gradients of rows for tests: values and indices that own their memory, as the library and the reference take them.
#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "array.hpp"
#include "reference.hpp"

/// `count` row numbers below `rows`, equal ones among them.
inline std::vector<std::int64_t> some_rows(std::int64_t rows, std::int64_t count, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::int64_t> list;
    for (std::int64_t i = 0; i < count; ++i) list.push_back(static_cast<std::int64_t>(random()) % rows);
    return list;
}

inline std::vector<std::int64_t> every_second(std::int64_t rows) {
    std::vector<std::int64_t> list;
    for (std::int64_t row = 1; row < rows; row += 2) list.push_back(row);
    return list;
}

/// A gradient of rows, a dense one, or none. Every second one has indices of 32 bits.
class Rowwise {
public:
    Rowwise() = default;

    Rowwise(DType dtype, const Shape& table, std::vector<std::int64_t> rows, unsigned seed) : rows_(std::move(rows)) {
        Shape shape = table;
        shape[0] = static_cast<std::int64_t>(rows_.size());
        row_size_ = static_cast<std::size_t>(count(Shape(table.begin() + 1, table.end())));
        values_.emplace_back(dtype, shape, numbers(dtype, count(shape), seed));
        if (seed % 2 == 0) narrow_.assign(rows_.begin(), rows_.end());
        is_dense_ = false;
    }

    static Rowwise dense(DType dtype, const Shape& table, unsigned seed) {
        Rowwise made;
        made.values_.emplace_back(dtype, table, numbers(dtype, count(table), seed));
        return made;
    }

    fusedopt::Gradient given() const {
        if (values_.empty()) return {};
        if (is_dense_) return values_[0].read_only();
        return fusedopt::RowGradient{values_[0].read_only(), indices()};
    }

    Tensor indices() const { return narrow_.empty() ? Tensor(rows_) : Tensor(narrow_); }

    reference::Gradient reference() const {
        if (values_.empty()) return {DType::float32, std::nullopt};
        return {values_[0].dtype(), values_of(values_[0].tensor()), rows_, is_dense_ ? 0 : row_size_};
    }

private:
    std::vector<Array> values_;  // one, or none
    std::vector<std::int64_t> rows_;
    std::vector<std::int32_t> narrow_;
    std::size_t row_size_ = 0;
    bool is_dense_ = true;
};
