// Gradients of a call: dense ones, and those of a few rows of a table.
#pragma once

#include <fusedopt/language.hpp>

#include <concepts>
#include <cstddef>
#include <span>
#include <stdexcept>
#include <utility>

#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// The gradient of some rows of a variable [n, ...row shape]; that of all other rows is zero.
///
/// `values` is [k, ...row shape] of float16, bfloat16, float32 or float64, with any strides. `indices` is [k] of int32
/// or int64: which row each of the values is for, in any order. The values of a row that occurs several times are
/// summed, in the order in which they occur.
struct RowGradient {
    Tensor values;
    Tensor indices;
};

/// The gradient of one variable: dense, or of rows, or none.
struct Gradient {
    Tensor values = {};   // none: no gradient
    Tensor indices = {};  // none: dense

    Gradient() = default;
    Gradient(Tensor dense) : values(std::move(dense)) {}
    Gradient(RowGradient rows) : values(std::move(rows.values)), indices(std::move(rows.indices)) {
        if (!values) throw std::invalid_argument("RowGradient: values: expected an array, found none");
        if (!indices) throw std::invalid_argument("RowGradient: indices: expected an array, found none");
    }
};

/// A view of the gradients of a call, which somebody else holds: each a Tensor, or each a Gradient.
class Gradients {
public:
    Gradients() = default;
    Gradients(std::span<const Tensor> tensors) : first_(tensors.data()), twice_size_(2 * tensors.size()) {}
    Gradients(std::span<const Gradient> gradients) : first_(gradients.data()), twice_size_(2 * gradients.size() + 1) {}

    /// Of a vector, an array and so on.
    template <std::convertible_to<std::span<const Tensor>> Range>
    Gradients(const Range& tensors) : Gradients(std::span<const Tensor>(tensors)) {}
    template <std::convertible_to<std::span<const Gradient>> Range>
    Gradients(const Range& gradients) : Gradients(std::span<const Gradient>(gradients)) {}

    std::size_t size() const { return twice_size_ / 2; }
    bool empty() const { return size() == 0; }

    const Tensor& values(std::size_t i) const {
        return may_have_rows() ? static_cast<const Gradient*>(first_)[i].values : static_cast<const Tensor*>(first_)[i];
    }

    /// Null: a dense gradient, or none.
    const Tensor* indices(std::size_t i) const {
        if (!may_have_rows()) return nullptr;
        const Tensor& indices = static_cast<const Gradient*>(first_)[i].indices;
        return indices ? &indices : nullptr;
    }

private:
    bool may_have_rows() const { return twice_size_ % 2 == 1; }

    // Two words, so that calls hand it on in registers.
    const void* first_ = nullptr;
    std::size_t twice_size_ = 0;  // and 1 more if each is a Gradient
};

}  // namespace fusedopt
