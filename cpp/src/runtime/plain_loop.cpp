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

}  // namespace fusedopt
