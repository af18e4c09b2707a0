// Compiled once per level with FUSEDOPT_LEVEL set: the level's table of kernels.
#include "kernel/levels.hpp"

#include "kernel/measure.hpp"
#include "kernel/rules/adam.hpp"
#include "kernel/rules/rmsprop.hpp"
#include "kernel/rules/sgd.hpp"
#include "kernel/sweep.hpp"
#include "kernel/traffic.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

const Kernels kernels = {
    {
#define FUSEDOPT_UPDATE(name) {update<name, float>, update<name, double>},
        FUSEDOPT_RULES(FUSEDOPT_UPDATE)
#undef FUSEDOPT_UPDATE
    },
    {hold<float>, hold<double>},
    measure,
    traffic,
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
