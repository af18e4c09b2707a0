// The border between the step and the kernels: plain data and function pointers, nothing else.
// Every level's kernels are compiled from the same source into a namespace of their own, so whatever both sides include
// must have no function bodies: the linker could keep one in the form of a level this machine cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel/rule_list.hpp"

namespace fusedopt::kernel {

inline constexpr std::int64_t tile = 1024;  // elements; what a sum's partial results and a thread's share are cut by
inline constexpr std::int64_t widest_block = 16 * tile;
inline constexpr int max_slots = 3;
inline constexpr int max_scalars = 9;
inline constexpr int most_dimensions = 64;

enum class RuleId : std::uint8_t {
#define FUSEDOPT_RULE_ID(name) name,
    FUSEDOPT_RULES(FUSEDOPT_RULE_ID)
#undef FUSEDOPT_RULE_ID
        count
};

enum class Element : std::uint8_t { float16, bfloat16, float32, float64 };

/// What a step does to one variable, besides its average.
enum class Work : std::uint8_t {
    none,        // no gradient in this step
    update,      // the rule
    accumulate,  // add the gradient to the accumulator
    discard,     // zero the accumulator
    restore,     // write the average into the variable
};

/// One variable's part in a step. Null pointers stand for memory that does not exist.
/// Two cache lines, and nothing that all variables share: what a step writes here, every thread must fetch anew, and
/// thousands of small variables are bound by this.
struct alignas(64) Job {
    std::int64_t size;
    void* weight;  // in the compute type: the user's memory, or the master copy
    const void* gradient;
    void* slots[max_slots];
    double clip_factor;  // that of its own norm, or 1
    std::uint8_t rank;   // of a gradient that is not contiguous
    Element storage_element;
    Element gradient_element;
    bool computes_in_double;
    bool decays;
    std::uint8_t branch;  // of the rule
    Work work;

    std::size_t first_partial;  // where its tiles' partial sums begin
    void* average;
    void* accumulator;
    void* storage;                // the user's float16 or bfloat16 memory, where `weight` is its master copy
    const std::int64_t* shape;    // of a gradient that is not contiguous, with its strides in bytes
    const std::int64_t* strides;  // null: contiguous and aligned
    double ratio;                 // trust ratio of a rule that has one
};

/// What all variables of a branch share in a step.
struct Step {
    double scalars[max_scalars];
    double keep;       // factor on the variables that decay: 1 - weight_decay * learning_rate
    double unscale;    // factor on a gradient before it is accumulated
    double scale;      // factor on what reaches the rule, but for the clip_factor
    double clipvalue;  // infinity: off
    double ema_momentum;
    bool overwrite;  // the average replaces the variable
};

/// A tile's share of the norms a trust ratio is made of.
struct TrustPartial {
    double weight;
    double direction;
};

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
    TrustPartial* norms;
};

/// Variables that follow each other, of one kind: from `begin` in the first to `end` in the last.
struct Stretch {
    const Job* first;
    const Job* last;
    std::int64_t begin;
    std::int64_t end;
};

using SweepFunction = void (*)(const Step&, const Stretch&);
using AdvanceFunction = void (*)(const Step&, const Stretch&, TrustPartial* partials);

using BlockFunction = void (*)(const Step&, const Job&, const Block&);

struct AdafactorKernels {
    BlockFunction sums;      // of squares of the gradient in rows and columns, and of the weight
    BlockFunction lengthen;  // the update's share of its norm
    BlockFunction settle;
    BlockFunction advance_whole;  // a variable that is not factored: slot and both norms
    BlockFunction settle_whole;
    /// Moves means [begin, end) towards the new ones, whose sums over `terms` elements lie in `parts` arrays, `stride`
    /// apart. Returns their sum. Sets factors to their inverse roots, unless it is null.
    double (*average)(void* means, void* factors, double keep, double epsilon_1, const double* sums, std::int64_t parts,
                      std::int64_t stride, std::int64_t terms, std::int64_t begin, std::int64_t end);
    /// The second moments that a row's mean stands for.
    void (*expand)(double row_mean, double mean, const void* column_means, std::int64_t columns, void* out);
};

/// Matrices that are multiplied, X, P and S, may be narrower than the compute type.
struct MuonKernels {
    /// The direction that is to be made orthogonal, into slot 1, and each tile's sum of squares.
    void (*direct)(const Step&, const Job&, std::int64_t begin, std::int64_t end, double* sums);
    /// X <- a x, or its transpose.
    void (*scale)(double a, const void* x, std::int64_t rows, std::int64_t columns, bool transposes, void* out);
    /// Rows [begin, end) of S <- a I + b S + c P, and the same above the diagonal. P has `end` columns. S is not read
    /// with b = 0.
    void (*fold)(const double (&polynomial)[3], const void* p, std::int64_t begin, std::int64_t end, std::int64_t side,
                 void* s);
    /// out <- X, in the compute type.
    void (*widen)(const void* x, std::int64_t n, void* out);
};

inline constexpr int most_updated = 5;
inline constexpr int most_read = 2;

/// The arrays of one tensor that the benchmarks' plain loop moves.
struct Moved {
    float* updated[most_updated];
    const float* read[most_read];
    const std::uint16_t* narrow;  // read, too; null: none
    int updated_count;
    int read_count;
};

/// One level's kernels. `begin` is always a multiple of the tile, `sums` and `partials` those of all variables.
struct Kernels {
    SweepFunction update[static_cast<int>(RuleId::count)][2];     // [rule][computes in double]
    AdvanceFunction advance[static_cast<int>(RuleId::count)][2];  // before update; null without a trust ratio
    SweepFunction hold[2];                                        // every other work
    AdafactorKernels adafactor[2];
    MuonKernels muon[3];  // [products of float32, float64, bfloat16]
    /// Each tile's sum of squares. False where an element of a gradient is not finite.
    bool (*measure)(double unscale, const Stretch&, double* sums);
    void (*plain_loop)(const Moved&, std::int64_t begin, std::int64_t end);
};

}  // namespace fusedopt::kernel
