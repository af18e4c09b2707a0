// How a tensor is checked when it is made, and whether its elements touch a range of memory.
#include <fusedopt/tensor.hpp>

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>

#include "engine/bounds.hpp"

namespace fusedopt {

std::string_view to_string(DType dtype) {
    switch (dtype) {
        case DType::float16:
            return "float16";
        case DType::bfloat16:
            return "bfloat16";
        case DType::float32:
            return "float32";
        case DType::float64:
            return "float64";
        case DType::int32:
            return "int32";
        case DType::int64:
            return "int64";
        case DType::uint8:
            return "uint8";
        case DType::uint16:
            return "uint16";
    }
    return "unknown";
}

Tensor::Tensor(const void* data, DType dtype, std::span<const std::int64_t> shape,
               std::span<const std::int64_t> strides)
    : Tensor(const_cast<void*>(data), dtype, shape, strides) {
    writable_ = false;
}

Tensor::Tensor(void* data, DType dtype, std::span<const std::int64_t> shape, std::span<const std::int64_t> strides)
    : data_(data),
      size_(1),
      rank_(static_cast<std::uint32_t>(shape.size())),
      dtype_(dtype),
      present_(true),
      writable_(true) {
    if (!strides.empty() && strides.size() != shape.size()) {
        throw std::invalid_argument("tensor: expected as many strides as dimensions (" + std::to_string(shape.size()) +
                                    "), found " + std::to_string(strides.size()));
    }
    if (dtype > DType::uint16) {
        throw std::invalid_argument("dtype: unknown value " + std::to_string(static_cast<int>(dtype)));
    }
    if (shape.size() > most_dimensions) {
        throw std::invalid_argument("tensor: expected at most " + std::to_string(most_dimensions) +
                                    " dimensions, found " + std::to_string(shape.size()));
    }
    if (rank_ > inline_rank) large_.resize(2 * rank_);
    std::int64_t* extent = rank_ > inline_rank ? large_.data() : small_.data();
    const auto bytes = static_cast<std::int64_t>(item_size(dtype));
    for (std::size_t d = rank_; d-- > 0;) {
        if (shape[d] < 0 || (size_ > 0 && shape[d] > std::numeric_limits<std::int64_t>::max() / bytes / size_)) {
            throw std::invalid_argument("tensor: dimension " + std::to_string(d) + " of " + std::to_string(shape[d]) +
                                        " elements is negative or too large");
        }
        const std::int64_t packed = size_ * bytes;
        extent[d] = shape[d];
        extent[rank_ + d] = strides.empty() ? packed : strides[d];
        contiguous_ = contiguous_ && (shape[d] <= 1 || extent[rank_ + d] == packed);
        size_ *= shape[d];
    }
    contiguous_ = contiguous_ || size_ == 0;
    if (!data && size_ > 0) throw std::invalid_argument("tensor: the data pointer is null");
}

bool Tensor::touches(const std::byte* begin, const std::byte* end) const {
    if (size_ == 0 || begin == end) return false;
    const Bounds bounds = bounds_of(*this);
    if (bounds.high <= begin || end <= bounds.low) return false;
    if (contiguous_) return true;
    // The bounds meet, but a strided view can still step over the range. So every element is looked at.
    const auto bytes = static_cast<std::int64_t>(item_size(dtype_));
    std::vector<std::int64_t> index(rank_, 0);
    const auto* element = static_cast<const std::byte*>(data_);
    for (std::int64_t i = 0; i < size_; ++i) {
        if (element < end && begin < element + bytes) return true;
        for (std::size_t d = rank_; d-- > 0;) {
            element += strides()[d];
            if (++index[d] < shape()[d]) break;
            element -= index[d] * strides()[d];
            index[d] = 0;
        }
    }
    return false;
}

}  // namespace fusedopt
