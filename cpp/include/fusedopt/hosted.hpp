// A step on state that somebody else keeps: a host's variables, slots, averages and counts, all handed over in each
// call. Nothing is owned here, and nothing has to be built. It is what adapters to other libraries step with.
#pragma once

#include <fusedopt/language.hpp>

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include <fusedopt/rules.hpp>
#include <fusedopt/tensor.hpp>

namespace fusedopt {

/// A variable and all that belongs to it. `variable` may have any dense layout: its dimensions in some order are
/// C-contiguous. Slots, average and master copy must have the same shape and layout. A gradient may have any strides.
struct HostedVariable {
    Tensor variable = {};              // float16, bfloat16, float32 or float64
    Tensor gradient = {};              // none: the rule leaves the variable as it is
    Tensor indices = {};               // of the rows that the gradient is for, as in RowGradient; none: it is dense
    std::array<Tensor, 3> slots = {};  // those of the rule, in its order; float64 if the variable is, else float32
    Tensor average = {};               // the moving average, of the same dtype as the slots; none: not kept
    Tensor master = {};     // a float32 copy of a variable of 16 bits, which a value written to the variable wins over
    std::int64_t step = 1;  // the number of this update, from 1
    double product = 1.0;   // the number that Nadam and TorchNAdam keep; a step moves it on
    DType product_dtype = DType::float64;  // float32 if the host keeps it so
};

/// Variables that share hyperparameters.
struct HostedGroup {
    Rule rule =
        {};  // hyperparameters must be numbers; Lamb, Adafactor and Muon keep state of their own and are refused
    double learning_rate = 0.001;
    std::optional<double> weight_decay = {};  // decoupled; none: the rule's own
    bool maximize = false;                    // goes up along the gradient
    double ema_momentum = 0.99;               // of the moving averages
    std::span<HostedVariable> variables = {};
};

struct HostedOptions {
    std::optional<double> max_norm = {};  // of all gradients: factor min(1, max_norm / (norm + 1e-6)), as in PyTorch
    std::optional<double> clipnorm = {};  // of each gradient: factor min(1, clipnorm / norm)
    double unscale = 1.0;                 // factor on gradients, before norms are taken
    bool skip_nonfinite = false;          // a gradient with an infinity or NaN: the step changes nothing
    std::uint64_t seed = 0;               // of stochastic rounding
};

struct HostedResult {
    bool stepped;                // false: skipped by skip_nonfinite
    std::optional<double> norm;  // of all gradients, unscaled; if it was needed
};

/// Takes steps. It keeps memory to work in, so that a step like the last one allocates nothing.
///
/// Each refusal is a std::invalid_argument, thrown before anything is written. It names a variable by its group and its
/// place there, "group 0, parameter 3". An object serves one thread at a time.
class HostedStep {
public:
    HostedStep();
    HostedStep(HostedStep&&) noexcept;
    HostedStep& operator=(HostedStep&&) noexcept;
    ~HostedStep();

    /// Updates the variables of all groups in one sweep. Empty groups and variables are no error.
    HostedResult run(std::span<const HostedGroup> groups, const HostedOptions& options = {});

private:
    class State;
    std::unique_ptr<State> state_;
};

}  // namespace fusedopt
