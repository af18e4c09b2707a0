// Where arrays of the state lie: staggered, and on huge pages if the system has some.
#include "runtime/memory.hpp"

#include <limits>
#include <new>
#include <utility>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fusedopt {
namespace {

constexpr std::size_t cache_line = 64;
constexpr std::size_t huge_page = std::size_t{2} << 20;

// Arrays that start at the same place of a page share cache sets. Large ones that lie a power of two apart share banks
// of memory as well. A step of 2^26 elements then took up to a fifth longer. So each piece starts at a later place than
// the one before.
std::size_t stagger_after(std::size_t size_bytes) {
    if (size_bytes >= std::size_t{1} << 20) return 32 * 1024 + 17 * cache_line;
    return size_bytes >= std::size_t{64} << 10 ? 9 * cache_line : 0;
}

std::size_t round_up(std::size_t size, std::size_t to) {
    return (size + to - 1) / to * to;
}

}  // namespace

Arena::Arena(Arena&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)),
      size_(std::exchange(other.size_, 0)),
      separated_(other.separated_),
      alignment_(other.alignment_) {}

Arena& Arena::operator=(Arena&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
    std::swap(separated_, other.separated_);
    std::swap(alignment_, other.alignment_);
    return *this;
}

Arena::~Arena() {
    if (data_) ::operator delete(data_, std::align_val_t(alignment_));
}

std::size_t Arena::reserve(std::size_t size_bytes) {
    const std::size_t offset = size_, most = std::numeric_limits<std::size_t>::max() / 2;
    if (size_bytes > most - size_) throw std::bad_alloc();
    size_ += round_up(size_bytes, cache_line) + stagger_after(size_bytes);
    return offset;
}

void Arena::separate() {
    size_ += stagger_after(size_ - separated_);
    separated_ = size_;
}

void Arena::allocate() {
    alignment_ = size_ >= huge_page ? huge_page : cache_line;
    size_ = round_up(size_, alignment_);
    data_ = static_cast<std::byte*>(::operator new(size_, std::align_val_t(alignment_)));
#if defined(__linux__)
    // This is only advice. Without huge pages the memory is as good as before.
    if (alignment_ == huge_page) madvise(data_, size_, MADV_HUGEPAGE);
#endif
}

}  // namespace fusedopt
