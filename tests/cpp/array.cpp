// How numbers are read, written, rounded, compared and drawn. Compiled once for all programs, and optimised.
#include "array.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <sstream>

SmallFloat small_float(DType dtype) {
    return dtype == DType::float16 ? SmallFloat{10, 15} : SmallFloat{7, 127};
}

std::uint16_t to_bits(SmallFloat format, double x) {
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

double from_bits(SmallFloat format, std::uint16_t bits) {
    const int magnitude = bits & 0x7fff;
    const int infinity = (2 * format.bias + 1) << format.fraction;
    const int exponent = std::max(magnitude >> format.fraction, 1);
    const int fraction = magnitude - ((exponent - 1) << format.fraction);
    double x = std::ldexp(fraction, exponent - format.bias - format.fraction);
    if (magnitude == infinity) x = std::numeric_limits<double>::infinity();
    if (magnitude > infinity) x = std::numeric_limits<double>::quiet_NaN();
    return bits & 0x8000 ? -x : x;
}

double read(DType dtype, const std::byte* from) {
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

void write(DType dtype, double x, std::byte* to) {
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

Values rounded(DType dtype, Values values) {
    for (double& x : values) {
        std::byte bytes[8];
        write(dtype, x, bytes);
        x = read(dtype, bytes);
    }
    return values;
}

void Array::set(const Values& values) {
    for (std::size_t i = 0; i < values.size(); ++i) write(dtype_, values[i], data() + i * item_size(dtype_));
}

Values values_of(const Tensor& tensor) {
    Values values;
    const auto* from = static_cast<const std::byte*>(tensor.data());
    for (std::int64_t i = 0; i < tensor.size(); ++i) {
        values.push_back(read(tensor.dtype(), from));
        from += item_size(tensor.dtype());
    }
    return values;
}

std::string difference(const Values& found, const Values& expected) {
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

std::string distance(const Values& found, const Values& expected, double tolerance) {
    if (found.size() != expected.size()) return "another size";
    for (std::size_t k = 0; k < found.size(); ++k) {
        if (std::fabs(found[k] - expected[k]) <= tolerance * (std::fabs(expected[k]) + 1e-2)) continue;
        std::ostringstream message;
        message.precision(17);
        message << "element " << k << " is " << found[k] << " and not about " << expected[k];
        return message.str();
    }
    return "";
}

Values transposed(const Values& values, std::size_t rows, std::size_t columns) {
    Values turned(values.size());
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t j = 0; j < columns; ++j) turned[j * rows + i] = values[i * columns + j];
    }
    return turned;
}

Values product_of(const Values& a, const Values& b, std::size_t rows, std::size_t inner, std::size_t columns) {
    Values product(rows * columns);
    for (std::size_t i = 0; i < rows; ++i) {
        for (std::size_t k = 0; k < inner; ++k) {
            for (std::size_t j = 0; j < columns; ++j) product[i * columns + j] += a[i * inner + k] * b[k * columns + j];
        }
    }
    return product;
}

Values numbers(DType dtype, std::int64_t size, unsigned seed) {
    std::mt19937 random(seed);
    Values values(static_cast<std::size_t>(size));
    for (double& x : values) x = static_cast<double>(random()) / 1073741824.0 - 2.0;
    if (size > 2) values[1] = 0.0;
    if (size > 2) values[2] = -0.0;
    return rounded(dtype, values);
}
