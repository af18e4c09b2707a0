// A host for tests of hosted steps: it owns variables, gradients and all that belongs to them.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "array.hpp"

inline DType compute_type(DType dtype) {
    return dtype == DType::float64 ? DType::float64 : DType::float32;
}

inline bool is_narrow(DType dtype) {
    return dtype == DType::float16 || dtype == DType::bfloat16;
}

/// A variable with what a host may keep for it. Slots and average begin at zero, a master copy as the variable.
struct Kept {
    Array variable;
    std::vector<Array> slots;
    Array average;
    Array master;

    explicit Kept(const Array& given)
        : variable(given.copy()),
          average(like(given, compute_type(given.dtype()))),
          master(like(given, DType::float32)) {
        for (int k = 0; k < 3; ++k) slots.push_back(like(given, compute_type(given.dtype())));
        master.set(values_of(given.tensor()));
    }

    /// With so many slots, and a master copy if the variable is of 16 bits.
    fusedopt::HostedVariable hosted(const Tensor& gradient, std::size_t slot_count) const {
        fusedopt::HostedVariable hosted{.variable = variable.tensor(), .gradient = gradient};
        for (std::size_t k = 0; k < slot_count; ++k) hosted.slots[k] = slots[k].tensor();
        if (is_narrow(variable.dtype())) hosted.master = master.tensor();
        return hosted;
    }

    std::vector<std::byte> bytes() const {
        std::vector<std::byte> all;
        const auto add = [&](const Array& array) {
            all.insert(all.end(), array.data(), array.data() + array.tensor().size_bytes());
        };
        for (const Array* array : {&variable, &average, &master}) add(*array);
        for (const Array& slot : slots) add(slot);
        return all;
    }

private:
    static Array like(const Array& given, DType dtype) {
        const Tensor tensor = given.tensor();
        const Shape shape(tensor.shape().begin(), tensor.shape().end());
        return Array(dtype, shape, Values(static_cast<std::size_t>(tensor.size())));
    }
};

inline std::vector<std::byte> bytes_of(const std::vector<Kept>& kept) {
    std::vector<std::byte> all;
    for (const Kept& one : kept) {
        const std::vector<std::byte> bytes = one.bytes();
        all.insert(all.end(), bytes.begin(), bytes.end());
    }
    return all;
}
