// Memory whose neighbours must not be touched: where the system can, a page without access lies on either side.
#pragma once

#include <cstddef>
#include <new>
#include <utility>

#if defined(__unix__) || defined(__APPLE__)
#define FUSEDOPT_TEST_GUARD_PAGES
#include <sys/mman.h>
#include <unistd.h>
#else
#include <vector>
#endif

/// Where the bytes lie between the guards: the last one before the upper guard, the first one after the lower, or one
/// element later, which no vector is aligned to.
enum class Placement { at_end, at_beginning, shifted };

inline constexpr Placement all_placements[] = {Placement::at_end, Placement::at_beginning, Placement::shifted};

class Memory {
public:
    Memory(std::size_t size, Placement placement, std::size_t shift) {
#if defined(FUSEDOPT_TEST_GUARD_PAGES)
        const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
        const std::size_t inside = (size + shift + page - 1) / page * page;
        mapped_size_ = inside + 2 * page;
        mapped_ = mmap(nullptr, mapped_size_, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped_ == MAP_FAILED) throw std::bad_alloc();
        std::byte* first = static_cast<std::byte*>(mapped_) + page;
        if (inside > 0 && mprotect(first, inside, PROT_READ | PROT_WRITE) != 0) throw std::bad_alloc();
        data_ = first;
        if (placement == Placement::at_end) data_ += inside - size;
#else
        bytes_.resize(size + shift);
        data_ = bytes_.data();
#endif
        if (placement == Placement::shifted) data_ += shift;
    }

    Memory(Memory&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)),
#if defined(FUSEDOPT_TEST_GUARD_PAGES)
          mapped_(std::exchange(other.mapped_, nullptr)),
          mapped_size_(other.mapped_size_) {
    }
    ~Memory() {
        if (mapped_) munmap(mapped_, mapped_size_);
    }
#else
          bytes_(std::move(other.bytes_)) {
    }
#endif
    Memory& operator=(Memory&&) = delete;

    std::byte* data() const { return data_; }

private:
    std::byte* data_;
#if defined(FUSEDOPT_TEST_GUARD_PAGES)
    void* mapped_;
    std::size_t mapped_size_;
#else
    std::vector<std::byte> bytes_;
#endif
};
