// Compiled once per level with FUSEDOPT_LEVEL set: the level's table of kernels.
#include "kernel/levels.hpp"

#include "kernel/adding.hpp"
#include "kernel/catch_up.hpp"
#include "kernel/measure.hpp"
#include "kernel/own_rule.hpp"
#include "kernel/plain_loop.hpp"
#include "kernel/rowwise.hpp"
#include "kernel/rules/adadelta.hpp"
#include "kernel/rules/adafactor.hpp"
#include "kernel/rules/adagrad.hpp"
#include "kernel/rules/adam.hpp"
#include "kernel/rules/adamax.hpp"
#include "kernel/rules/coupled.hpp"
#include "kernel/rules/ftrl.hpp"
#include "kernel/rules/lamb.hpp"
#include "kernel/rules/lion.hpp"
#include "kernel/rules/muon.hpp"
#include "kernel/rules/nadam.hpp"
#include "kernel/rules/rmsprop.hpp"
#include "kernel/rules/schedule_free_adamw.hpp"
#include "kernel/rules/sgd.hpp"
#include "kernel/rules/torch_adagrad.hpp"
#include "kernel/rules/torch_adamax.hpp"
#include "kernel/rules/torch_rmsprop.hpp"
#include "kernel/rules/torch_sgd.hpp"
#include "kernel/rules/yogi.hpp"
#include "kernel/sweep.hpp"

namespace fusedopt::kernel::FUSEDOPT_LEVEL {

const Kernels kernels = {
    {
#define FUSEDOPT_UPDATE(name) {update<name, float>, update<name, double>},
        FUSEDOPT_RULES(FUSEDOPT_UPDATE)
#undef FUSEDOPT_UPDATE
#define FUSEDOPT_UPDATE(name) {update_rowwise<name, float>, update_rowwise<name, double>},
            FUSEDOPT_ROWWISE_RULES(FUSEDOPT_UPDATE)
#undef FUSEDOPT_UPDATE
                {update_own<float>, update_own<double>},
    },
    {other_work<float>, other_work<double>},
    decode_slot,
    encode_slots,
    {catch_up<float>, catch_up<double>},
    measure,
    add,
    divide,
    adafactor_kernels,
    lamb_kernels,
    muon_kernels,
    plain_loop,
    plain_row_loop,
};

}  // namespace fusedopt::kernel::FUSEDOPT_LEVEL
