// One allocation for all of an optimizer's state, cut into aligned pieces.
#pragma once

#include <cstddef>
#include <cstdint>

namespace fusedopt {

class Arena {
public:
    Arena() = default;
    Arena(const Arena&) = delete;
    Arena& operator=(const Arena&) = delete;
    Arena(Arena&& other) noexcept;
    Arena& operator=(Arena&& other) noexcept;
    ~Arena();

    /// Reserves `size_bytes` for a later `allocate` and returns their offset, or throws std::bad_alloc.
    std::size_t reserve(std::size_t size_bytes);

    /// Begins what is reserved next at another place of a page than what was reserved since the last separation.
    void separate();

    /// Allocates what was reserved, or throws std::bad_alloc. It does not touch the memory, so that the threads that
    /// will use a piece can be the first to do so.
    void allocate();

    bool is_allocated() const { return data_; }
    std::byte* at(std::size_t offset) const { return data_ + offset; }
    bool contains(const std::byte* begin, const std::byte* end) const { return begin < data_ + size_ && data_ < end; }

private:
    std::byte* data_ = nullptr;
    std::size_t size_ = 0;
    std::size_t separated_ = 0;
    std::size_t alignment_ = 0;
};

}  // namespace fusedopt
