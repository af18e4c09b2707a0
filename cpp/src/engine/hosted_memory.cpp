// Layouts and overlaps of memory in a hosted step.
#include "engine/hosted_memory.hpp"

#include <algorithm>
#include <utility>

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

void HostedMemory::clear() {
    written_.clear();
    written_parts_.clear();
    read_.clear();
    read_parts_.clear();
    gradients_.clear();
}

void HostedMemory::add_written(const Tensor& dense, const Part& part) {
    const auto* begin = static_cast<const std::byte*>(dense.data());
    written_.push_back({begin, begin + dense.size_bytes()});
    written_parts_.push_back(part);
}

void HostedMemory::add_read(const Tensor& gradient, const Part& part) {
    const auto* begin = static_cast<const std::byte*>(gradient.data());
    read_.push_back(gradient.is_contiguous() ? Extent{begin, begin + gradient.size_bytes()} : Extent{});
    read_parts_.push_back(part);
    gradients_.push_back(&gradient);
}

HostedMemory::Overlap HostedMemory::find_overlap() {
    const bool is_known = written_ == checked_written_;
    if (!is_known) {
        checked_written_.clear();
        if (const Overlap found = find_among_written(); found.one) return found;
    }
    for (std::size_t k = 0; k < read_.size(); ++k) {
        if (is_known && read_[k].begin && k < checked_read_.size() && checked_read_[k] == read_[k]) continue;
        if (const Part* found = find_written(*gradients_[k])) {
            checked_written_.clear();
            return {&read_parts_[k], found};
        }
    }
    std::swap(written_, checked_written_);
    std::swap(read_, checked_read_);
    return {nullptr, nullptr};
}

HostedMemory::Overlap HostedMemory::find_among_written() {
    sorted_.clear();
    for (std::size_t k = 0; k < written_.size(); ++k) sorted_.push_back({written_[k], k});
    std::ranges::sort(sorted_, {}, [](const Sorted& sorted) { return sorted.extent.begin; });
    for (std::size_t k = 1; k < sorted_.size(); ++k) {
        if (sorted_[k].extent.begin < sorted_[k - 1].extent.end) {
            return {&written_parts_[sorted_[k].index], &written_parts_[sorted_[k - 1].index]};
        }
    }
    return {nullptr, nullptr};
}

const HostedMemory::Part* HostedMemory::find_written(const Tensor& gradient) const {
    const Bounds bounds = bounds_of(gradient);
    const auto end_of = [](const Sorted& sorted) { return sorted.extent.end; };
    for (auto found = std::ranges::upper_bound(sorted_, bounds.low, {}, end_of);
         found != sorted_.end() && found->extent.begin < bounds.high; ++found) {
        if (gradient.touches(found->extent.begin, found->extent.end)) return &written_parts_[found->index];
    }
    return nullptr;
}

}  // namespace fusedopt
