// The limit that benchmarks compare with. It hands its tensors to the level's loop. No step comes here.
#include "runtime/plain_loop.hpp"

#include <algorithm>
#include <stdexcept>

#include "runtime/levels.hpp"

namespace fusedopt {

void PlainLoop::add(std::span<float* const> updated, std::span<const float* const> read, const std::uint16_t* narrow,
                    std::int64_t size) {
    if (updated.size() > kernel::most_updated || read.size() > kernel::most_read) {
        throw std::invalid_argument("PlainLoop: expected at most 5 arrays to update and 2 to read");
    }
    kernel::Moved moved{};
    std::ranges::copy(updated, moved.updated);
    std::ranges::copy(read, moved.read);
    moved.updated_count = static_cast<int>(updated.size());
    moved.read_count = static_cast<int>(read.size());
    moved.narrow = narrow;
    plan_.add(tensors_.size(), size);
    tensors_.push_back(moved);
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
