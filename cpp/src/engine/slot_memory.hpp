// How the slots of a variable lie in memory, in full or as codes, and how they begin, are read and are loaded.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include <fusedopt/optimizer.hpp>
#include <fusedopt/tensor.hpp>

#include "kernel/kernel.hpp"
#include "rules/rule.hpp"

namespace fusedopt {

/// The least elements of a variable whose slots are coded in 8 bits without being asked for by name.
inline constexpr std::int64_t least_coded = 4096;

/// Whether the options ask for a slot that is coded.
bool asks_for_codes(const Options& options);

/// Which of them asks for a slot of this kind or of fewer bits, as errors name it; empty: none.
std::string option_asking_for(const Options& options, SlotDType slot_dtype);

/// Whether a step may round at random.
bool rounds_at_random(const Options& options);

/// Of a step, by the number of calls before it.
std::uint64_t seed_of(const Options& options, std::int64_t calls);

/// Of a variable's slots with one number for each element. Those of a variable without such slots count as full.
kernel::SlotCode slot_code_of(const Options& options, const RuleSpec& spec, const Variable& variable);

inline bool has_array(const Slot& slot) {
    return slot.form != Form::derived && slot.form != Form::placeholder;
}

/// Whether it has fewer elements than its variable.
inline bool is_short(const Slot& slot) {
    return slot.form == Form::rows || slot.form == Form::columns || slot.form == Form::rowwise;
}

inline bool is_coded(const Slot& slot, const kernel::Job& job) {
    return slot.form == Form::full && job.slot_code != kernel::SlotCode::full;
}

/// The shape of a slot that has an array.
std::vector<std::int64_t> shape_of(const Slot& slot, const Tensor& variable);

/// Blocks that share a scale, of so many elements.
inline std::int64_t blocks_of(std::int64_t elements) {
    return (elements + kernel::slot_block - 1) / kernel::slot_block;
}

/// All that a slot takes, its scales too.
std::size_t bytes_of(const Slot& slot, const kernel::Job& job, const Tensor& variable);

/// Of a variable without elements, as only its slots can be larger than itself.
void check_slot_size(const Slot& slot, const kernel::Job& job, const Tensor& variable, const std::string& who);

/// Bytes from one element to the next, without scales.
std::int64_t item_bytes(const Slot& slot, const kernel::Job& job);

/// Whether rows have scales of their own, if their variable's slots are coded in 8 bits.
inline bool has_whole_blocks(const kernel::Job& job, std::int64_t row_size) {
    return job.slot_code != kernel::SlotCode::float8 || row_size % kernel::slot_block == 0;
}

[[noreturn]] void refuse_row_size(const std::string& who, std::int64_t row_size, const std::string& name);

/// Fills a part of an array in the compute type, if there is one.
void fill(const kernel::Job& job, void* array, std::int64_t begin, std::int64_t end, double value);

/// Tells a step which slots of a branch may be below zero.
void set_signs(const RuleSpec& spec, kernel::Step& step);

/// Gives a part of a variable's slots their first values, if they have one number for each element.
void begin_slots(const RuleSpec& spec, const kernel::Job& job, std::int64_t begin, std::int64_t end);

/// The numbers of a coded slot.
void read_slot(const RuleSpec& spec, const kernel::Job& job, std::size_t slot, std::int64_t begin, std::int64_t end,
               float* values);

/// Refuses numbers that codes without a sign cannot hold. Codes pass.
void check_not_negative(const std::string& who, const Tensor& numbers);

/// Refuses what no step writes.
void check_scales(const std::string& who, const Tensor& scales);

}  // namespace fusedopt
