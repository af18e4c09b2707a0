// Every level the library can be compiled for; which of them it was is the build's choice.
#pragma once

#include "kernel/kernel.hpp"

namespace fusedopt::kernel {

namespace x86_64_v2 {
extern const Kernels kernels;
}
namespace x86_64_v3 {
extern const Kernels kernels;
}
namespace x86_64_v4 {
extern const Kernels kernels;
}
namespace aarch64 {
extern const Kernels kernels;
}
namespace baseline {
extern const Kernels kernels;
}

}  // namespace fusedopt::kernel
