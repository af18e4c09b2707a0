// The memory that a view spans, whatever its strides.
#pragma once

#include <cstddef>
#include <cstdint>

#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// From the first byte of any element to behind the last one.
struct Bounds {
    const std::byte* low;
    const std::byte* high;
};

/// For a tensor with elements.
inline Bounds bounds_of(const Tensor& tensor) {
    const auto* low = static_cast<const std::byte*>(tensor.data());
    const std::byte* high = low + item_size(tensor.dtype());
    for (std::size_t d = 0; d < tensor.rank(); ++d) {
        const std::int64_t reach = tensor.strides()[d] * (tensor.shape()[d] - 1);
        (reach < 0 ? low : high) += reach;
    }
    return {low, high};
}

}  // namespace fusedopt
