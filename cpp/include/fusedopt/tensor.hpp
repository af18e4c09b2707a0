// A view of memory that somebody else owns: where it is, what it holds, how it is laid out.
#pragma once

#include <fusedopt/language.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <ranges>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

namespace fusedopt {

/// Element types. Variables and gradients hold any of the four floating types, row indices one of the two integers.
/// int64 occurs in optimizer state, too, and the last two only there: the codes and scales of slots of 8 bits.
enum class DType : std::uint8_t { float16, bfloat16, float32, float64, int32, int64, uint8, uint16 };

constexpr bool is_floating(DType dtype) {
    return dtype <= DType::float64;
}

/// The bytes that an element of `dtype` takes.
constexpr std::size_t item_size(DType dtype) {
    if (dtype == DType::uint8) return 1;
    if (dtype <= DType::bfloat16 || dtype == DType::uint16) return 2;
    return dtype == DType::float32 || dtype == DType::int32 ? 4 : 8;
}

/// Of C++'s numbers that have one.
template <class Number>
inline constexpr std::optional<DType> dtype_of = std::nullopt;
template <>
inline constexpr std::optional<DType> dtype_of<float> = DType::float32;
template <>
inline constexpr std::optional<DType> dtype_of<double> = DType::float64;
template <>
inline constexpr std::optional<DType> dtype_of<std::int32_t> = DType::int32;
template <>
inline constexpr std::optional<DType> dtype_of<std::int64_t> = DType::int64;

/// As many as NumPy's arrays can have.
inline constexpr std::size_t most_dimensions = 64;

/// "float32" and so on, as in messages.
std::string_view to_string(DType dtype);

/// A non-owning view of an n-dimensional array. A default-constructed Tensor stands for "no gradient".
///
/// The memory must outlive every use of the view. float16 and bfloat16 elements are given by pointer and DType.
class Tensor {
public:
    Tensor() = default;

    /// Views `data` with this shape, of at most `most_dimensions`; `strides` are in bytes, and none means C order.
    Tensor(void* data, DType dtype, std::span<const std::int64_t> shape, std::span<const std::int64_t> strides = {});

    /// The same, for memory that is only read.
    Tensor(const void* data, DType dtype, std::span<const std::int64_t> shape,
           std::span<const std::int64_t> strides = {});

    /// Views a std::vector, std::array, std::span ... of float, double or integers as one dimension.
    template <std::ranges::contiguous_range Range>
        requires std::ranges::sized_range<Range> &&
                 (std::is_lvalue_reference_v<Range> || std::ranges::borrowed_range<Range>) &&
                 (dtype_of<std::ranges::range_value_t<Range>>.has_value())
    explicit Tensor(Range&& elements)
        : Tensor(std::ranges::data(elements), *dtype_of<std::ranges::range_value_t<Range>>,
                 std::array{static_cast<std::int64_t>(std::ranges::size(elements))}) {}

    /// False for "no gradient".
    explicit operator bool() const { return present_; }

    void* data() const { return data_; }
    DType dtype() const { return dtype_; }
    std::size_t rank() const { return rank_; }
    std::span<const std::int64_t> shape() const { return {extents(), rank_}; }
    std::span<const std::int64_t> strides() const { return {extents() + rank_, rank_}; }
    std::int64_t size() const { return size_; }
    std::int64_t size_bytes() const { return size_ * static_cast<std::int64_t>(item_size(dtype_)); }
    bool is_contiguous() const { return contiguous_; }
    bool is_aligned() const { return (reinterpret_cast<std::uintptr_t>(data_) & (item_size(dtype_) - 1)) == 0; }
    bool is_writable() const { return writable_; }

    /// Views other memory in the same layout.
    void move_to(void* data) { data_ = data; }

    /// True if at least one byte of this view's elements lies in [begin, end).
    bool touches(const std::byte* begin, const std::byte* end) const;

private:
    static constexpr std::size_t inline_rank = 6;

    const std::int64_t* extents() const { return rank_ > inline_rank ? large_.data() : small_.data(); }

    // What a step looks at comes first: of a vector or matrix that is all within a cache line.
    void* data_ = nullptr;
    std::int64_t size_ = 0;
    std::uint32_t rank_ = 0;
    DType dtype_ = DType::float32;
    bool present_ = false;
    bool contiguous_ = true;
    bool writable_ = false;
    std::array<std::int64_t, 2 * inline_rank> small_{};  // shape, then strides
    std::vector<std::int64_t> large_;                    // the same, if they do not fit
};

}  // namespace fusedopt
