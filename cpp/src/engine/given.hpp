// What build is given: which of the variables are built already, their names, and that they can be updated in place.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/tensor.hpp>

namespace fusedopt {

inline constexpr std::size_t unknown = static_cast<std::size_t>(-1);

/// A variable as it was built.
struct Variable {
    const void* checked_gradient;  // the last contiguous gradient known to overlap nothing
    DType checked_dtype;
    bool decays;
    std::uint16_t branch;  // of the rule
    Tensor tensor;         // if the optimizer is sharded, the piece of it that this rank has
    std::string name;
    bool is_named;  // or the name is its position
    std::int64_t whole_size = tensor.size();
    std::int64_t begin = 0;  // of a piece, in the whole variable
};

/// Memory [begin, end) of a built variable, for looking variables up by address.
struct Range {
    const std::byte* begin;
    const std::byte* end;
    std::size_t index;
};

/// Which of several optimizers a variable belongs to, and which of its variables it is.
struct Place {
    std::size_t optimizer;
    std::size_t index;
};

struct Name {
    std::string text;
    bool is_given;  // or it is the variable's position
};

struct Given {
    std::vector<Tensor> tensors;
    std::vector<Name> names;
    std::vector<std::size_t> built;  // which of the built variables each is, or `unknown`

    /// Whether these are the built variables, in their order and by their names.
    bool is_same(std::span<const Variable* const> variables) const;
};

/// Refuses what cannot be updated in place. If the optimizer is built, its variables must be among the given ones. A
/// built variable keeps its name, if it has one.
Given recognize(std::span<const Tensor> tensors, std::span<const std::string> names,
                std::span<const Variable* const> built, bool is_built);

/// The built variables where they lie now, in their order. Those that have moved are not `built` in it. Refuses what
/// cannot be updated in place, or is not as it was built.
Given relocated(std::span<const Tensor> tensors, std::span<const Variable* const> built);

/// Refuses other variables than the built ones in their order.
void require_variables(const char* function, std::span<const Tensor> tensors, std::span<const Variable* const> built);

/// Sorted by address, without empty variables. Refuses those that overlap.
std::vector<Range> sorted_ranges(const Given& given);

/// The first of these variables whose memory a gradient shares, or `unknown`.
std::size_t overlapped_by(const Tensor& gradient, std::span<const Range> ranges);

/// A variable, as messages name it.
std::string who_is(std::size_t index, const std::string& name);

/// Advice to take a new array in the place of a variable, which is of no use if the model keeps the old one.
std::string for_a_variable(const std::string& advice);

/// A shape as Python writes it.
std::string to_string(std::span<const std::int64_t> shape);

}  // namespace fusedopt
