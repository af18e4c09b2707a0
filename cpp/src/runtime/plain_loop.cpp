// The limit that benchmarks compare with. It hands its tensors to the level's loop. No step comes here.
#include "runtime/plain_loop.hpp"

#include <algorithm>
#include <stdexcept>

#include "runtime/levels.hpp"

namespace fusedopt {

void PlainLoop::add(std::span<float* const> updated, std::span<const float* const> read, const std::uint16_t* narrow,
                    std::int64_t size) {
    kernel::Moved& moved = added(updated.size(), read.size(), size);
    std::ranges::copy(updated, moved.updated);
    std::ranges::copy(read, moved.read);
    moved.narrow = narrow;
}

void PlainLoop::add_words(std::span<std::uint32_t* const> updated, std::span<const std::uint32_t* const> read,
                          std::int64_t size) {
    kernel::Moved& moved = added(updated.size(), read.size(), size);
    std::ranges::transform(updated, moved.updated, [](std::uint32_t* w) { return reinterpret_cast<float*>(w); });
    std::ranges::transform(read, moved.read, [](const std::uint32_t* r) { return reinterpret_cast<const float*>(r); });
    moved.is_words = true;
}

kernel::Moved& PlainLoop::added(std::size_t updated, std::size_t read, std::int64_t size) {
    if (updated > kernel::most_updated || read > kernel::most_read) {
        throw std::invalid_argument("PlainLoop: expected at most 5 arrays to update and 2 to read");
    }
    plan_.add(tensors_.size(), size);
    kernel::Moved& moved = tensors_.emplace_back();
    moved.updated_count = static_cast<int>(updated);
    moved.read_count = static_cast<int>(read);
    return moved;
}

void PlainLoop::run() const {
    const kernel::Kernels& kernels = current_kernels();
    plan_.run([&](std::size_t tensor, std::int64_t begin, std::int64_t end) {
        kernels.plain_loop(tensors_[tensor], begin, end);
    });
}

PlainRowLoop::PlainRowLoop(std::span<float* const> updated, const float* read, std::span<const std::int64_t> rows,
                           std::span<const std::int64_t> positions, std::int64_t row_size, std::int64_t ahead) {
    if (updated.empty() || updated.size() > kernel::most_updated) {
        throw std::invalid_argument("PlainRowLoop: expected 1 to 5 tables to update");
    }
    if (rows.size() != positions.size()) {
        throw std::invalid_argument("PlainRowLoop: expected a position for each row");
    }
    std::ranges::copy(updated, moved_.updated);
    moved_.read = read;
    moved_.updated_count = static_cast<int>(updated.size());
    moved_.row_size = row_size;
    moved_.count = static_cast<std::int64_t>(rows.size());
    moved_.rows = rows.data();
    moved_.positions = positions.data();
    moved_.ahead = ahead;
    plan_.add(0, moved_.count * row_size);
}

void PlainRowLoop::run() const {
    const kernel::Kernels& kernels = current_kernels();
    // A row belongs to the share in which it begins.
    const auto row_at = [&](std::int64_t element) { return (element + moved_.row_size - 1) / moved_.row_size; };
    plan_.run([&](std::size_t, std::int64_t begin, std::int64_t end) {
        kernels.plain_row_loop(moved_, row_at(begin), row_at(end));
    });
}

}  // namespace fusedopt
