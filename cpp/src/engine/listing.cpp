// Checks what is loaded against the list of what there is, and copies it.
#include "engine/listing.hpp"

#include <algorithm>
#include <memory>
#include <stdexcept>

#include "engine/check.hpp"
#include "engine/given.hpp"

namespace fusedopt {
namespace {

void check_shape_and_type(const std::string& who, const Tensor& value, const Tensor& expected) {
    if (!value || value.shape().size() != expected.shape().size() ||
        !std::ranges::equal(value.shape(), expected.shape())) {
        throw std::invalid_argument(who + ": expected shape " + to_string(expected.shape()) + ", found " +
                                    (value ? to_string(value.shape()) : "none"));
    }
    if (value.dtype() != expected.dtype() || !value.is_contiguous()) {
        throw std::invalid_argument(who + ": expected contiguous " + std::string(to_string(expected.dtype())) +
                                    ", found " + std::string(to_string(value.dtype())));
    }
}

/// Scales alone, and codes alone, would stand for other numbers than those that they were saved as.
void check_scales_of(const std::string& who, const Tensor& scales, const Tensor& codes) {
    const bool are_numbers = codes && codes.dtype() == DType::float32;
    if (are_numbers && scales) {
        throw std::invalid_argument(who + ": expected no scales beside numbers, found some; leave them empty");
    }
    if (are_numbers || bool(scales) == bool(codes)) return;
    throw std::invalid_argument(
        who + ": expected " +
        (codes ? "the scales of these codes, found none" : "the codes of these scales, found none") +
        "; give both, or leave both empty");
}

}  // namespace

void Listing::add(std::string name, const Tensor& tensor, Check check) {
    entries_.push_back({.name = std::move(name), .tensor = tensor, .check = check});
}

void Listing::add_codes(std::string name, const Tensor& codes, std::span<const std::int64_t> shape, Check check) {
    Tensor numbers(codes.data(), DType::float32, shape);
    entries_.push_back({.name = std::move(name), .tensor = codes, .check = check, .numbers = std::move(numbers)});
}

void Listing::add_scales(std::string name, const Tensor& scales, Check check) {
    entries_.push_back({.name = std::move(name), .tensor = scales, .check = check, .are_scales = true});
}

void Listing::add_copy(std::string name, void* codes, std::span<const std::int64_t> shape, Read read, Check check) {
    entries_.push_back({.name = std::move(name),
                        .tensor = Tensor(codes, DType::float32, shape),
                        .check = check,
                        .read = std::move(read)});
}

std::vector<NamedTensor> Listing::tensors() const {
    std::vector<NamedTensor> tensors;
    tensors.reserve(entries_.size());
    for (const Entry& entry : entries_) {
        if (!entry.read) {
            tensors.push_back({entry.name, entry.tensor});
            continue;
        }
        const std::shared_ptr<float[]> copy(new float[static_cast<std::size_t>(entry.tensor.size())]);
        entry.read(copy.get());
        tensors.push_back({entry.name, Tensor(copy.get(), DType::float32, entry.tensor.shape()), copy});
    }
    return tensors;
}

void Listing::add_counter(std::string name, std::int64_t& count) {
    add(std::move(name), Tensor(&count, DType::int64, std::span<const std::int64_t>()),
        [](const std::string& who, const Tensor& value) {
            std::int64_t loaded;
            std::memcpy(&loaded, value.data(), sizeof(loaded));
            require_counter(who.c_str(), loaded);
        });
}

void Listing::add(std::string name, double& number, Check check) {
    add(std::move(name), Tensor(&number, DType::float64, std::span<const std::int64_t>()), check);
}

void Listing::append(Listing&& other, const std::string& prefix) {
    for (Entry& entry : other.entries_) {
        entry.name = prefix + entry.name;
        entries_.push_back(std::move(entry));
    }
}

Loading::Loading(Listing listing, std::span<const Tensor> values) : listing_(std::move(listing)), values_(values) {
    const std::vector<Listing::Entry>& own = listing_.entries();
    if (values.size() != own.size()) {
        throw std::invalid_argument("set_weights: expected " + std::to_string(own.size()) + " arrays, found " +
                                    std::to_string(values.size()));
    }
    for (std::size_t k = 0; k < own.size(); ++k) {
        if (!values[k] && extent() == Extent::complete) continue;
        const bool are_numbers = own[k].read || (own[k].numbers && values[k].dtype() == DType::float32);
        const Tensor& expected = own[k].numbers && are_numbers ? *own[k].numbers : own[k].tensor;
        check_shape_and_type("set_weights: array " + std::to_string(k) + " (" + own[k].name + ")", values[k], expected);
        if (expected.size() == 0) continue;
        if (are_numbers) {
            numbers_.try_emplace(expected.data(), static_cast<const float*>(values[k].data()));
        } else {
            positions_.try_emplace(expected.data(), k);
        }
    }
    for (std::size_t k = 0; k < own.size(); ++k) {
        if (own[k].check && values[k]) own[k].check("set_weights: " + own[k].name, values[k]);
        if (own[k].are_scales) check_scales_of("set_weights: " + own[k].name, values[k], values[k - 1]);
    }
}

void Loading::copy() const noexcept {
    for (std::size_t k = 0; k < values_.size(); ++k) {
        const Tensor& own = listing_.entries()[k].tensor;
        if (values_[k] && own.size() > 0 && own.data() != values_[k].data() && !numbers_for(own.data())) {
            std::memmove(own.data(), values_[k].data(), static_cast<std::size_t>(own.size_bytes()));
        }
    }
}

}  // namespace fusedopt
