// The list of rules as the kernels know them: one line each, the name being a class in kernel/rules/. A
// rule whose procedure does everything has none.
#pragma once

#define FUSEDOPT_RULES(X)   \
    X(Sgd)                  \
    X(SgdMomentum)          \
    X(SgdNesterov)          \
    X(Rmsprop)              \
    X(RmspropMomentum)      \
    X(RmspropCentered)      \
    X(RmspropFull)          \
    X(Adam)                 \
    X(AdamAmsgrad)          \
    X(Adagrad)              \
    X(Adadelta)             \
    X(Adamax)               \
    X(Nadam)                \
    X(Lion)                 \
    X(Ftrl)                 \
    X(FtrlPower)            \
    X(ScheduleFreeAdamW)    \
    X(Yogi)                 \
    X(Muon)                 \
    X(CoupledSgd)           \
    X(CoupledAdam)          \
    X(CoupledAdamAmsgrad)   \
    X(CoupledAdadelta)      \
    X(CoupledNadam)         \
    X(TorchSgdMomentum)     \
    X(TorchRmsprop)         \
    X(TorchRmspropMomentum) \
    X(TorchRmspropCentered) \
    X(TorchRmspropFull)     \
    X(TorchAdagrad)         \
    X(TorchAdamax)

// Formulas that can also do with one second moment for each row (kernel/rowwise.hpp).
#define FUSEDOPT_ROWWISE_RULES(X) \
    X(Rmsprop)                    \
    X(RmspropMomentum)            \
    X(Adam)                       \
    X(AdamAmsgrad)                \
    X(Adagrad)                    \
    X(Nadam)                      \
    X(Yogi)
