// The memory of a fuzzer's arrays, and views of it that bytes choose: of any type, shape and strides, overlapping or
// not, but always inside. Two copies of the memory, each with the same views, serve an optimizer and its twin.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

#include "../../cpp/array.hpp"
#include "bytes.hpp"

/// Where a view lies, whatever memory it is of.
struct Place {
    DType dtype = DType::float32;
    Shape shape = {};
    Shape strides = {};  // none: C order
    std::int64_t offset = 0;
    bool is_writable = true;
    bool is_there = true;

    Tensor in(std::byte* memory) const {
        if (!is_there) return {};
        std::byte* data = memory + offset;
        return is_writable ? Tensor(static_cast<void*>(data), dtype, shape, strides)
                           : Tensor(static_cast<const void*>(data), dtype, shape, strides);
    }
};

inline constexpr std::int64_t part = 2048;  // bytes that belong to one array unless bytes choose otherwise
inline constexpr std::int64_t memory_size = 16 * part;

inline DType any_dtype(Bytes& bytes) {
    constexpr DType usual[] = {DType::float32, DType::float32, DType::float64, DType::float16, DType::bfloat16};
    return bytes.once_in(24) ? static_cast<DType>(bytes.below(9)) : usual[bytes.below(std::size(usual))];
}

inline Shape any_shape(Bytes& bytes) {
    constexpr std::int64_t extents[] = {3, 1, 2, 4, 5, 0, 7, 16, 33, 64, 65, 128};
    Shape shape(bytes.once_in(24) ? bytes.below(70) : bytes.below(4));
    for (std::int64_t& extent : shape) extent = shape.size() > 6 ? 1 : extents[bytes.below(std::size(extents))];
    if (bytes.once_in(48) && !shape.empty()) shape[0] = bytes.integer();
    return shape;
}

/// The view's lowest byte and the one behind its highest, counted from its first element.
inline std::array<std::int64_t, 2> span_of(const Place& place) {
    std::int64_t low = 0, high = static_cast<std::int64_t>(item_size(place.dtype));
    for (std::size_t d = 0; d < place.shape.size(); ++d) {
        const std::int64_t reach = place.strides[d] * (place.shape[d] - 1);
        (reach < 0 ? low : high) += reach;
    }
    return {low, high};
}

/// Lays a view of some type and shape into the part, or anywhere.
inline Place laid_out(Bytes& bytes, DType dtype, const Shape& shape, std::int64_t number) {
    Place place{.dtype = dtype, .shape = shape};
    const auto item = static_cast<std::int64_t>(item_size(dtype));
    std::int64_t size = item;
    for (const std::int64_t extent : shape) {
        // The view itself must refuse these.
        if (extent < 0 || (extent == std::numeric_limits<std::int64_t>::max() && item > 1)) return place;
        if (extent > part) return {.dtype = dtype, .shape = {1}};
        size *= std::max<std::int64_t>(extent, 1);
        if (size > memory_size) return {.dtype = dtype, .shape = {1}};
    }
    const bool is_anywhere = bytes.once_in(12);
    const std::int64_t begin = is_anywhere ? 0 : number % 16 * part, end = is_anywhere ? memory_size : begin + part;
    place.is_writable = !bytes.once_in(24);
    place.offset = begin + (bytes.once_in(16) ? bytes.byte() : 0);
    if (bytes.once_in(4)) {
        place.strides.assign(shape.size(), 0);
        std::int64_t step = bytes.once_in(3) ? 2 * item : bytes.once_in(8) ? 1 : item;
        const bool is_fortran = bytes.once_in(2);
        for (std::size_t k = 0; k < shape.size(); ++k) {
            const std::size_t d = is_fortran ? k : shape.size() - 1 - k;
            place.strides[d] = bytes.once_in(6) ? -step : bytes.once_in(8) ? 0 : step;
            step *= std::max<std::int64_t>(shape[d], 1);
        }
        const auto [low, high] = span_of(place);
        place.offset -= low;
        size = high - low;
    }
    const bool fits = place.offset >= 0 && begin + size <= end && place.offset + size <= memory_size;
    return fits ? place : Place{.dtype = dtype, .shape = {1}, .offset = begin};
}

/// Fills the memory: with numbers that a model may have, with anything, or with one value.
inline void fill(Bytes& bytes, std::vector<std::byte>& memory) {
    std::uint64_t random = bytes.byte() + 1u;
    const std::size_t kind = bytes.below(4);
    for (std::size_t i = 0; i < memory.size(); i += 4) {
        random = random * 6364136223846793005u + 1442695040888963407u;
        auto word = static_cast<std::uint32_t>(random >> 32);
        if (kind < 2) {
            // Of magnitude 2^-14 to 2 as float32, and of the same in its upper half as bfloat16.
            word = (word & 0x807fffffu) | (113u + (word >> 24) % 15u) << 23;
        } else if (kind == 3) {
            word = 0;
        }
        std::memcpy(&memory[i], &word, 4);
    }
}
