// What a hosted step asks of memory that it does not know: layouts in which it can be swept, and nothing overlapping.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// The order of dimensions in which a variable is C-contiguous. Dimensions of one element have no place in it.
class MemoryOrder {
public:
    /// That of a variable; false if its elements leave gaps in its memory or share some of it.
    bool set(const Tensor& variable);

    /// True if a tensor of the variable's shape has its elements one after another in this order.
    bool is_order_of(const Tensor& tensor) const;

    /// The dimensions of a tensor of the variable's shape in this order, first all sizes, then all strides. Returns how
    /// many there are.
    std::size_t copy(const Tensor& tensor, std::int64_t* extents) const;

    bool is_plain() const { return is_plain_; }

private:
    bool is_plain_ = true;  // C-contiguous as it is
    std::size_t rank_ = 0;
    std::array<std::uint8_t, most_dimensions> dimensions_;
};

/// Finds memory of a step that is written and overlaps other memory. What is where it was in the last call is not
/// looked at again.
class HostedMemory {
public:
    /// What lies there.
    struct Part {
        std::uint32_t group;
        std::uint32_t index;
        std::int32_t what;
    };
    struct Overlap {
        const Part* one;  // null: there is none
        const Part* other;
    };

    void clear();
    void add_written(const Tensor& dense, const Part& part);
    void add_read(const Tensor& gradient, const Part& part);

    /// To be called when all is added.
    Overlap find_overlap();

private:
    struct Extent {
        const std::byte* begin;
        const std::byte* end;

        friend bool operator==(const Extent&, const Extent&) = default;
    };
    struct Sorted {
        Extent extent;
        std::size_t index;
    };

    Overlap find_among_written();
    const Part* find_written(const Tensor& gradient) const;

    std::vector<Extent> written_, checked_written_;
    std::vector<Extent> read_, checked_read_;  // null: a gradient with strides, which is looked at each time
    std::vector<Part> written_parts_, read_parts_;
    std::vector<const Tensor*> gradients_;
    std::vector<Sorted> sorted_;
};

}  // namespace fusedopt
