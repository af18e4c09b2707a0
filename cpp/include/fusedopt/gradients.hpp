// Gradients of a call: dense ones, and those of a few rows of a table.
#pragma once

#include <fusedopt/language.hpp>

#include <cstddef>
#include <span>
#include <stdexcept>
#include <utility>
#include <vector>

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

/// A view of the gradients of a call, which somebody else holds: each a Tensor, or each a Gradient, or their values and
/// their indices apart.
class Gradients {
public:
    Gradients() = default;
    Gradients(std::span<const Tensor> tensors) : tensors_(tensors.data()), size_(tensors.size()) {}
    Gradients(std::span<const Gradient> gradients) : gradients_(gradients.data()), size_(gradients.size()) {}

    /// As many indices as values; none of a dense gradient.
    Gradients(std::span<const Tensor> values, std::span<const Tensor> indices)
        : tensors_(values.data()), indices_(indices.data()), size_(values.size()) {}
    Gradients(const std::vector<Tensor>& tensors) : Gradients(std::span(tensors)) {}
    Gradients(const std::vector<Gradient>& gradients) : Gradients(std::span(gradients)) {}

    std::size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }

    const Tensor& values(std::size_t i) const { return gradients_ ? gradients_[i].values : tensors_[i]; }

    /// Null: a dense gradient, or none.
    const Tensor* indices(std::size_t i) const {
        const Tensor* const found = gradients_ ? &gradients_[i].indices : indices_ ? &indices_[i] : nullptr;
        return found && *found ? found : nullptr;
    }

private:
    const Tensor* tensors_ = nullptr;
    const Tensor* indices_ = nullptr;
    const Gradient* gradients_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace fusedopt
