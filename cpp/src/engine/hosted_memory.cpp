// Layouts and overlaps of memory in a hosted step.
#include "engine/hosted_memory.hpp"

#include <algorithm>

#include "engine/bounds.hpp"

namespace fusedopt {

bool MemoryOrder::set(const Tensor& variable) {
    is_plain_ = variable.is_contiguous();
    if (is_plain_) return true;
    rank_ = 0;
    for (std::size_t d = 0; d < variable.rank(); ++d) {
        if (variable.shape()[d] > 1) dimensions_[rank_++] = static_cast<std::uint8_t>(d);
    }
    const auto by_stride = [&](std::uint8_t a, std::uint8_t b) {
        return variable.strides()[a] > variable.strides()[b];
    };
    std::sort(dimensions_.begin(), dimensions_.begin() + static_cast<std::ptrdiff_t>(rank_), by_stride);
    return is_order_of(variable);
}

bool MemoryOrder::is_order_of(const Tensor& tensor) const {
    if (is_plain_) return tensor.is_contiguous();
    auto packed = static_cast<std::int64_t>(item_size(tensor.dtype()));
    for (std::size_t k = rank_; k-- > 0;) {
        if (tensor.strides()[dimensions_[k]] != packed) return false;
        packed *= tensor.shape()[dimensions_[k]];
    }
    return true;
}

std::size_t MemoryOrder::copy(const Tensor& tensor, std::int64_t* extents) const {
    const std::size_t rank = is_plain_ ? tensor.rank() : rank_;
    for (std::size_t k = 0; k < rank; ++k) {
        const std::size_t d = is_plain_ ? k : dimensions_[k];
        extents[k] = tensor.shape()[d];
        extents[rank + k] = tensor.strides()[d];
    }
    return rank;
}

void HostedMemory::begin() {
    written_.count = read_.count = 0;
    gradients_.clear();
    changed_.clear();
    was_good_ = is_good_;
    is_good_ = false;
    is_same_ = true;
}

HostedMemory::Overlap HostedMemory::find_overlap() {
    const bool is_known = was_good_ && is_same_ && written_.count == written_.extents.size();
    written_.end();
    read_.end();
    if (!is_known) {
        if (const Overlap found = find_among_written(); found.one) return found;
        changed_.clear();
        for (std::size_t k = 0; k < read_.count; ++k) changed_.push_back(k);
    }
    for (const std::size_t k : changed_) {
        if (const Part* found = find_written(*gradients_[k])) return {&read_.parts[k], found};
    }
    is_good_ = true;
    return {nullptr, nullptr};
}

HostedMemory::Overlap HostedMemory::find_among_written() {
    sorted_.clear();
    for (std::size_t k = 0; k < written_.count; ++k) sorted_.push_back({written_.extents[k], k});
    std::ranges::sort(sorted_, {}, [](const Sorted& sorted) { return sorted.extent.begin; });
    for (std::size_t k = 1; k < sorted_.size(); ++k) {
        if (sorted_[k].extent.begin < sorted_[k - 1].extent.end) {
            return {&written_.parts[sorted_[k].index], &written_.parts[sorted_[k - 1].index]};
        }
    }
    return {nullptr, nullptr};
}

const HostedMemory::Part* HostedMemory::find_written(const Tensor& gradient) const {
    const Bounds bounds = bounds_of(gradient);
    const auto end_of = [](const Sorted& sorted) { return sorted.extent.end; };
    for (auto found = std::ranges::upper_bound(sorted_, bounds.low, {}, end_of);
         found != sorted_.end() && found->extent.begin < bounds.high; ++found) {
        if (gradient.touches(found->extent.begin, found->extent.end)) return &written_.parts[found->index];
    }
    return nullptr;
}

}  // namespace fusedopt
