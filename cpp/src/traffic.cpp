#include "traffic.hpp"

#include <stdexcept>

#include "levels.hpp"
#include "plan.hpp"

namespace fusedopt {

void move_bytes(std::span<void* const> updated, std::span<const void* const> read, std::int64_t size) {
    if (updated.size() > 5 || read.size() > 2) {
        throw std::invalid_argument("move_bytes: expected at most 5 arrays to update and 2 to read");
    }
    SweepPlan plan;
    plan.add(0, size);
    const kernel::Kernels& kernels = current_kernels();
    plan.run([&](std::size_t, std::int64_t begin, std::int64_t end) {
        kernels.traffic(updated.data(), static_cast<int>(updated.size()), read.data(), static_cast<int>(read.size()),
                        begin, end);
    });
}

}  // namespace fusedopt
