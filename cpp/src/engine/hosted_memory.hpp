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

/// Finds memory of a step that is written and overlaps other memory. What lies where it lay in the last call, if that
/// one was good, is not looked at again.
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

    /// Begins a call.
    void begin();

    void add_written(const Tensor& dense, const Part& part) {
        if (!written_.put(extent_of(dense), part)) is_same_ = false;
    }

    void add_read(const Tensor& gradient, const Part& part) {
        const bool is_plain = gradient.is_contiguous();
        if (!read_.put(is_plain ? extent_of(gradient) : Extent{}, part) || !is_plain)
            changed_.push_back(read_.count - 1);
        gradients_.push_back(&gradient);
    }

    /// To be called when all is added.
    Overlap find_overlap();

private:
    struct Extent {
        const std::byte* begin;
        const std::byte* end;

        friend bool operator==(const Extent&, const Extent&) = default;
    };

    /// The memory of a call, put over that of the last one.
    struct List {
        std::vector<Extent> extents;
        std::vector<Part> parts;
        std::size_t count = 0;

        /// True if the last call had the same in this place.
        bool put(const Extent& extent, const Part& part) {
            const std::size_t k = count++;
            if (k == extents.size()) {
                extents.push_back(extent);
                parts.push_back(part);
                return false;
            }
            const bool is_same = extents[k] == extent;
            if (!is_same) extents[k] = extent;
            parts[k] = part;
            return is_same;
        }

        void end() {
            extents.resize(count);
            parts.resize(count);
        }
    };
    struct Sorted {
        Extent extent;
        std::size_t index;
    };

    static Extent extent_of(const Tensor& dense) {
        const auto* begin = static_cast<const std::byte*>(dense.data());
        return {begin, begin + dense.size_bytes()};
    }

    Overlap find_among_written();
    const Part* find_written(const Tensor& gradient) const;

    List written_, read_;
    std::vector<const Tensor*> gradients_;
    std::vector<std::size_t> changed_;  // gradients to look at even if all that is written lies where it lay
    std::vector<Sorted> sorted_;        // what is written
    bool was_good_ = false;             // the call before
    bool is_good_ = false;
    bool is_same_ = false;  // as far as is known, all that is written lies where it lay
};

}  // namespace fusedopt
