// Arrays of any element type in guarded memory, read and written as double; numbers to fill them with.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <span>
#include <sstream>
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

inline SmallFloat small_float(DType dtype) {
    return dtype == DType::float16 ? SmallFloat{10, 15} : SmallFloat{7, 127};
}

/// To the nearest, ties to even. Plain arithmetic in double, slow and obvious.
inline std::uint16_t to_bits(SmallFloat format, double x) {
    const int sign = std::signbit(x) ? 0x8000 : 0;
    const int infinity = (2 * format.bias + 1) << format.fraction;
    const double magnitude = std::fabs(x);
    int bits;
    if (std::isnan(x)) {
        bits = infinity | 1 << (format.fraction - 1);
    } else if (magnitude >= std::ldexp(1.0, format.bias + 1)) {
        bits = infinity;
    } else {
        const int least = 1 - format.bias;
        const int exponent = magnitude > 0 ? std::max(std::ilogb(magnitude), least) : least;
        const auto fraction = static_cast<int>(std::nearbyint(std::ldexp(magnitude, format.fraction - exponent)));
        bits = ((exponent + format.bias) << format.fraction) + fraction - (1 << format.fraction);
    }
    return static_cast<std::uint16_t>(sign | bits);
}

inline double from_bits(SmallFloat format, std::uint16_t bits) {
    const int magnitude = bits & 0x7fff;
    const int infinity = (2 * format.bias + 1) << format.fraction;
    const int exponent = std::max(magnitude >> format.fraction, 1);
    const int fraction = magnitude - ((exponent - 1) << format.fraction);
    double x = std::ldexp(fraction, exponent - format.bias - format.fraction);
    if (magnitude == infinity) x = std::numeric_limits<double>::infinity();
    if (magnitude > infinity) x = std::numeric_limits<double>::quiet_NaN();
    return bits & 0x8000 ? -x : x;
}

inline double read(DType dtype, const std::byte* from) {
    if (dtype == DType::float64) {
        double x;
        std::memcpy(&x, from, sizeof(x));
        return x;
    }
    if (dtype == DType::float32) {
        float x;
        std::memcpy(&x, from, sizeof(x));
        return static_cast<double>(x);
    }
    if (dtype == DType::int64) {
        std::int64_t x;
        std::memcpy(&x, from, sizeof(x));
        return static_cast<double>(x);
    }
    std::uint16_t bits;
    std::memcpy(&bits, from, sizeof(bits));
    return from_bits(small_float(dtype), bits);
}

inline void write(DType dtype, double x, std::byte* to) {
    if (dtype == DType::float64) {
        std::memcpy(to, &x, sizeof(x));
    } else if (dtype == DType::float32) {
        const auto rounded = static_cast<float>(x);
        std::memcpy(to, &rounded, sizeof(rounded));
    } else {
        const std::uint16_t bits = to_bits(small_float(dtype), x);
        std::memcpy(to, &bits, sizeof(bits));
    }
}

/// The values as `dtype` holds them.
inline Values rounded(DType dtype, Values values) {
    for (double& x : values) {
        std::byte bytes[8];
        write(dtype, x, bytes);
        x = read(dtype, bytes);
    }
    return values;
}

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

    void set(const Values& values) {
        for (std::size_t i = 0; i < values.size(); ++i) write(dtype_, values[i], data() + i * item_size(dtype_));
    }

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
inline Values values_of(const Tensor& tensor) {
    Values values;
    const auto* from = static_cast<const std::byte*>(tensor.data());
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
        values.push_back(read(tensor.dtype(), from));
        from += item_size(tensor.dtype());
    }
    return values;
}

/// Empty where the two are the same, bit by bit but for a NaN's payload.
inline std::string difference(const Values& found, const Values& expected) {
    if (found.size() != expected.size()) return "another size";
    for (std::size_t i = 0; i < found.size(); ++i) {
        const double a = found[i], b = expected[i];
        if (std::isnan(a) ? std::isnan(b) : a == b && std::signbit(a) == std::signbit(b)) continue;
        std::ostringstream message;
        message.precision(17);
        message << "element " << i << " of " << found.size() << " is " << a << " and not " << b;
        return message.str();
    }
    return "";
}

/// Numbers between -2 and 2, rounded to `dtype`, with a zero of either sign among them.
inline Values numbers(DType dtype, std::int64_t size, unsigned seed) {
    std::mt19937 random(seed);
    Values values(static_cast<std::size_t>(size));
    for (double& x : values) x = static_cast<double>(random()) / 1073741824.0 - 2.0;
    if (size > 2) values[1] = 0.0;
    if (size > 2) values[2] = -0.0;
    return rounded(dtype, values);
}

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
