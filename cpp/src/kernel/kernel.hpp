// The border between the step and the kernels: plain data and function pointers, nothing else.
// Every level's kernels are compiled from the same source into a namespace of their own, so whatever both sides include
// must have no function bodies outside it: the linker could keep one in the form of a level this machine cannot run.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernel/rule_list.hpp"

namespace fusedopt::kernel {

inline constexpr std::int64_t tile =
    1024;  // elements; a sum's partial results, and the work of threads, are cut at its borders
inline constexpr int max_slots = 3;
inline constexpr int most_scalars = 9;
inline constexpr int most_dimensions = 64;

enum class RuleId : std::uint8_t {
#define FUSEDOPT_RULE_ID(name) name,
    FUSEDOPT_RULES(FUSEDOPT_RULE_ID)
#undef FUSEDOPT_RULE_ID
#define FUSEDOPT_RULE_ID(name) Rowwise##name,
        FUSEDOPT_ROWWISE_RULES(FUSEDOPT_RULE_ID)
#undef FUSEDOPT_RULE_ID
            Own,  // one that the program brings along
    count
};

enum class Element : std::uint8_t { float16, bfloat16, float32, float64 };

/// How the slots of a variable lie in memory.
enum class SlotCode : std::uint8_t {
    full,      // in the compute type
    bfloat16,  // the upper half of a float
    float8,    // a byte for each element, and a scale for each block
};
inline constexpr std::int64_t slot_block = 64;  // elements that share a scale

/// What a step does to one variable, besides its average.
enum class Work : std::uint8_t {
    none,        // no gradient in this step
    update,      // the rule
    accumulate,  // add the gradient to the accumulator
    discard,     // zero the accumulator
    restore,     // write the average into the variable
    rows,        // the rule, to some rows, each of which is a job of its own; here only the average moves
};

/// One variable's part in a step. Null pointers stand for memory that does not exist. Kept to two cache lines. Whatever
/// a step writes here must be fetched again by every thread, and with thousands of small variables that takes most of
/// the time. So what all variables share is in Step.
struct alignas(64) Job {
    std::int64_t size;
    void* weight;  // in the compute type: the user's memory, or the master copy; null: `storage` has none
    const void* gradient;
    void* slots[max_slots];
    double clip_factor;  // that of its own norm, or 1
    std::uint8_t rank;   // of a gradient that is not contiguous
    Element storage_element : 4;
    Element gradient_element : 4;
    SlotCode slot_code;
    bool computes_in_double;
    std::uint16_t branch;  // of the rule, or in a hosted step the number of the Step
    bool decays;
    Work work;

    std::size_t first_partial;  // where its tiles' partial sums begin
    void* average;
    void* accumulator;
    void* storage;                // the user's float16 or bfloat16 memory, unless `weight` is the user's
    const std::int64_t* shape;    // of a gradient that is not contiguous, with its strides in bytes
    const std::int64_t* strides;  // null: contiguous and aligned
    double ratio;                 // on the update, if the rule has a procedure that measures it
    std::int64_t scales;          // bytes from a slot's first code to its first scale, if it is coded in 8 bits
};
static_assert(sizeof(Job) <= 128);

/// A rule's scalars: its ...Scalars<double>. The kernels narrow them to the type that they compute in.
struct Scalars {
    double values[most_scalars];
};

/// What keeps an update bounded, whatever codes lose: slot `large` is coded as floor |x|^power at least, x being slot
/// `small`. A power of 0: nothing.
struct Guard {
    int small;
    int large;
    int power;
    double floor;
};

/// Updates n elements that follow each other, by a rule that the program brings along, in code of the program's.
template <class T>
using OwnUpdate = void (*)(const double* scalars, T scale, T keep, std::int64_t n, T* w, const T* g,
                           T* const* slots) noexcept;

struct OwnFormula {
    OwnUpdate<float> in_float;
    OwnUpdate<double> in_double;
    int slot_count;
};

/// What all variables of a branch share in a step.
struct Step {
    Scalars scalars;
    double keep;       // factor on the variables that decay: 1 - weight_decay * learning_rate
    double unscale;    // factor on a gradient before it is accumulated
    double scale;      // factor on what reaches the rule, but for the clip_factor
    double clipvalue;  // infinity: off
    double ema_momentum;
    bool overwrite;             // the average replaces the variable
    std::uint64_t seed;         // of what is rounded at random; another one in each step
    bool is_signed[max_slots];  // whether a slot that is coded in 8 bits may be below zero
    Guard guard;
    OwnFormula own;  // of RuleId::Own
};

/// Sums of squares of a part of a variable, and of the rule's update of it.
struct Squares {
    double weight;
    double update;
};

/// Variables that follow each other, of one kind: from `begin` in the first to `end` in the last.
struct Stretch {
    const Job* first;
    const Job* last;
    std::int64_t begin;
    std::int64_t end;
    int ahead = 0;  // the job so many further on is fetched while one is updated; behind `last` are as many more
};

using SweepFunction = void (*)(const Step&, const Stretch&);

/// What steps with a gradient of zero do to a row, all together: w <- keep w + move x, and each slot is multiplied by
/// its factor. x is one of the slots before these steps, or its sign.
struct Missed {
    double keep;
    double move;
    double factors[max_slots];
    double sign_factor;  // on the moving slot, if it moves by its sign, before that is taken
    std::int32_t entry;  // of the table's history, at which the row was up to date
};

/// What rows of one table that are caught up have in common.
struct CatchUp {
    const Missed* missed;                // by each job's row
    std::int64_t slot_sizes[max_slots];  // elements of a row's slot
    int moving_slot;                     // x; below 0: there is none, and `move` is 0
    bool moves_by_sign;
    /// The part of `move` for an element whose slot became zero on the way, by underflow, so that it has no sign since.
    double (*move_until_zero)(const void* history, std::int32_t entry, double slot);
    const void* history;
    std::uint64_t seed;  // the Step's, for variables of 16 bits without a master copy
};

// Kernels of a rule that is more than a formula, and of the benchmarks; each has a header in border/.
struct AdafactorKernels;
struct LambKernels;
struct MuonKernels;
struct Moved;
struct MovedRows;

/// One level's kernels. `begin` is always a multiple of the tile, `sums` those of all variables. An index or a
/// pointer's element is 1 for what computes in double.
struct Kernels {
    SweepFunction update[static_cast<int>(RuleId::count)][2];
    SweepFunction other_work[2];  // than an update
    /// Elements [begin, end) of a coded slot into `values`, which begins with the first of them. `begin` is a multiple
    /// of the block.
    void (*decode_slot)(const Job&, int slot, bool is_signed, std::int64_t begin, std::int64_t end, float* values);
    /// Codes these numbers for the coded slots of a variable, each by the nearest code. `values` has a pointer for each
    /// of max_slots slots, to the number of element `begin`, a multiple of the block. Null: that slot stays as it is.
    /// The guard acts only if both its slots are given.
    void (*encode_slots)(const Step&, const Job&, std::int64_t begin, std::int64_t end, const float* const* values);
    void (*catch_up[2])(const CatchUp&, const Stretch&);
    /// Each tile's sum of squares. False if an element of a gradient is not finite.
    bool (*measure)(double unscale, const Stretch&, double* sums);
    /// Adds a rank's values to a sum, or begins it with them. The sum is float64 for float64 values, else float32.
    void (*add)(const void* values, Element, std::int64_t n, bool is_first, void* sum);
    /// Divides a sum of such values.
    void (*divide)(void* sum, Element, std::int64_t n, double count);
    const AdafactorKernels* adafactor;
    const LambKernels* lamb;
    const MuonKernels* muon;
    void (*plain_loop)(const Moved&, std::int64_t begin, std::int64_t end);
    void (*plain_row_loop)(const MovedRows&, std::int64_t begin, std::int64_t end);
};

}  // namespace fusedopt::kernel
