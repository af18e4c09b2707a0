// Which level's kernels run. Only this file decides it.
#pragma once

#include <span>
#include <string_view>

#include "kernel/kernel.hpp"

namespace fusedopt {

struct Level {
    std::string_view name;
    const kernel::Kernels* kernels;
    bool (*is_supported)();
};

/// Levels compiled into the library, lowest first.
std::span<const Level> levels();

const kernel::Kernels& current_kernels();

}  // namespace fusedopt
