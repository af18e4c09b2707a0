// The border to Adafactor's kernels: plain data and function pointers, as in kernel.hpp.
#pragma once

#include "kernel/kernel.hpp"

namespace fusedopt::kernel {

template <class T>
struct AdafactorScalars {
    T rho, b, epsilon_1;
};

inline constexpr std::int64_t widest_block = 16 * tile;

/// The part of a variable that one call of Adafactor's kernels works on: some rows, and no more columns than
/// widest_block. A variable that is not factored is one row, of any length.
struct Block {
    std::int64_t first;       // its first element
    std::int64_t row_length;  // elements from a row to the next
    std::int64_t rows;
    std::int64_t columns;
    const void* row_means;       // slot r, where its rows begin
    const void* column_factors;  // 1 / sqrt(c), where its columns begin
    double mean;                 // of its matrix's slot r
    double* row_sums;
    double* column_sums;
    Squares* squares;
};

using BlockFunction = void (*)(const Step&, const Job&, const Block&);

struct AdafactorKernels {
    BlockFunction sums;  // of squares of the gradient in rows and columns, and of the weight
    BlockFunction measure_update;
    BlockFunction settle;
    BlockFunction advance_unfactored;  // both sums of squares, and the slot unless it is coded
    BlockFunction settle_unfactored;   // the variable, and a coded slot
    /// Moves means [begin, end) towards the new ones, whose sums over `terms` elements lie in `parts` arrays, `stride`
    /// apart. Returns their sum. Sets factors to their inverse roots, unless it is null.
    double (*average)(void* means, void* factors, double b, double epsilon_1, const double* sums, std::int64_t parts,
                      std::int64_t stride, std::int64_t terms, std::int64_t begin, std::int64_t end);
    /// The second moments that a row's mean stands for.
    void (*expand)(double row_mean, double mean, const void* column_means, std::int64_t columns, void* out);
};

}  // namespace fusedopt::kernel
