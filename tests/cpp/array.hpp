// Arrays of any element type in guarded memory, read and written as double; numbers to fill them with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "memory.hpp"

using fusedopt::DType;
using fusedopt::Tensor;

using Values = std::vector<double>;
using Shape = std::vector<std::int64_t>;

inline constexpr DType all_dtypes[] = {DType::float32, DType::float64, DType::float16, DType::bfloat16};

/// The two 16-bit formats, told apart by how many bits the fraction has and by the exponent's bias.
struct SmallFloat {
    int fraction, bias;
};

SmallFloat small_float(DType dtype);

/// To the nearest, ties to even. Plain arithmetic in double, slow and obvious.
std::uint16_t to_bits(SmallFloat format, double x);
double from_bits(SmallFloat format, std::uint16_t bits);

double read(DType dtype, const std::byte* from);
void write(DType dtype, double x, std::byte* to);

/// The values as `dtype` holds them.
Values rounded(DType dtype, Values values);

inline std::int64_t count(const Shape& shape) {
    std::int64_t size = 1;
    for (const std::int64_t extent : shape) size *= extent;
    return size;
}

/// A contiguous array that owns its memory.
class Array {
public:
    Array(DType dtype, Shape shape, const Values& values, Placement placement = Placement::at_end)
        : dtype_(dtype),
          shape_(std::move(shape)),
          placement_(placement),
          memory_(static_cast<std::size_t>(count(shape_)) * item_size(dtype), placement, item_size(dtype)) {
        set(values);
    }

    Array(DType dtype, const Values& values, Placement placement = Placement::at_end)
        : Array(dtype, Shape{static_cast<std::int64_t>(values.size())}, values, placement) {}

    Array copy() const {
        Array other(dtype_, shape_, {}, placement_);
        std::memcpy(other.data(), data(), static_cast<std::size_t>(tensor().size_bytes()));
        return other;
    }

    Tensor tensor() const { return Tensor(static_cast<void*>(memory_.data()), dtype_, shape_); }
    Tensor read_only() const { return Tensor(static_cast<const void*>(memory_.data()), dtype_, shape_); }

    DType dtype() const { return dtype_; }
    std::byte* data() const { return memory_.data(); }

    void set(const Values& values);

private:
    DType dtype_;
    Shape shape_;
    Placement placement_;
    Memory memory_;
};

inline std::vector<Tensor> tensors(std::span<const Array> arrays) {
    std::vector<Tensor> list;
    for (const Array& array : arrays) list.push_back(array.tensor());
    return list;
}

/// What a contiguous tensor holds.
Values values_of(const Tensor& tensor);

/// Empty where the two are the same, bit by bit but for a NaN's payload.
std::string difference(const Values& found, const Values& expected);

/// Empty where each element is as close to what is expected as the tolerance says.
std::string distance(const Values& found, const Values& expected, double tolerance);

// Matrices in double, row by row.
Values transposed(const Values& values, std::size_t rows, std::size_t columns);
Values product_of(const Values& a, const Values& b, std::size_t rows, std::size_t inner, std::size_t columns);

/// Numbers between -2 and 2, rounded to `dtype`, with a zero of either sign among them.
Values numbers(DType dtype, std::int64_t size, unsigned seed);

/// All the bytes an optimizer's variables and state consist of, to see that nothing has changed.
template <class Optimizer>
std::vector<std::byte> snapshot(const Optimizer& optimizer, std::span<const Tensor> variables) {
    std::vector<std::byte> bytes;
    const auto add = [&](const Tensor& tensor) {
        const auto* from = static_cast<const std::byte*>(tensor.data());
        bytes.insert(bytes.end(), from, from + tensor.size_bytes());
    };
    for (const Tensor& variable : variables) add(variable);
    for (const auto& [name, tensor] : optimizer.variables()) add(tensor);
    return bytes;
}
