// Counters end where a double no longer holds each integer: a step, and state that is loaded, refuse beyond that.
#include <cmath>
#include <limits>

#include "array.hpp"
#include "cases.hpp"
#include "check.hpp"

namespace {

constexpr std::int64_t largest = std::int64_t{1} << 53;
constexpr std::int64_t beyond[] = {-1, largest + 1, std::numeric_limits<std::int64_t>::max(),
                                   std::numeric_limits<std::int64_t>::min()};

std::int64_t& counter(const Tensor& tensor) {
    return *static_cast<std::int64_t*>(tensor.data());
}

/// Each of these counters refuses: in a step what was written into it, and in set_state what is given for it.
template <class Optimizer>
void check_counters(Optimizer& optimizer, const Array& variable, const std::vector<std::string>& names) {
    const Array gradient(DType::float32, Values(3, 1.0));
    const std::vector tensors = {variable.tensor()};
    for (const std::string& name : names) {
        const std::string last = name.substr(name.rfind('/') + 1);
        std::vector<Tensor> state;
        Tensor view;
        for (const auto& [own, tensor] : optimizer.state()) {
            state.push_back(tensor);
            if (own == name) view = tensor;
        }
        const std::int64_t before = counter(view);
        for (std::int64_t value : beyond) {
            std::vector<Tensor> values = state;
            for (Tensor& tensor : values) {
                if (tensor.data() == view.data())
                    tensor = Tensor(&value, DType::int64, std::span<const std::int64_t>());
            }
            const std::vector<std::byte> untouched = snapshot(optimizer, tensors);
            CHECK_REFUSED(optimizer.set_state(values), last);
            CHECK_REFUSED(optimizer.set_state(values), "found " + std::to_string(value));
            CHECK(snapshot(optimizer, tensors) == untouched);
            counter(view) = value;
            const std::vector<std::byte> written = snapshot(optimizer, tensors);
            CHECK_REFUSED(optimizer.apply({gradient.tensor()}), "apply: " + last);
            CHECK_REFUSED(optimizer.apply({gradient.tensor()}), "found " + std::to_string(value));
            CHECK(snapshot(optimizer, tensors) == written);
            counter(view) = before;
        }
        counter(view) = largest;
        CHECK_REFUSED(optimizer.apply({gradient.tensor()}), std::to_string(largest - 1));
        counter(view) = largest - 1;
        optimizer.apply({gradient.tensor()});
        counter(view) = before;
        optimizer.apply({gradient.tensor()});
    }
}

}  // namespace

TEST(the_iteration_of_every_rule) {
    for (const auto& [name, rule] : rule_cases()) {
        const Array variable(DType::float32, Values(3, 1.0));
        fusedopt::Optimizer optimizer(rule, {});
        optimizer.build({variable.tensor()});
        check_counters(optimizer, variable, {"iteration"});
        for (const double w : values_of(variable.tensor())) CHECK(std::isfinite(w));
    }
}

TEST(the_counters_of_a_loss_scale) {
    const Array variable(DType::float32, Values(3, 1.0));
    fusedopt::LossScaleOptimizer optimizer(fusedopt::Optimizer(fusedopt::Adam{}, {}));
    optimizer.build({variable.tensor()});
    check_counters(optimizer, variable,
                   {"loss_scale/step_counter", "loss_scale/consecutive_skipped_steps", "iteration"});
}

TEST(the_counters_of_several_optimizers) {
    const Array variable(DType::float32, Values(3, 1.0));
    fusedopt::MultiOptimizer optimizer({std::make_shared<fusedopt::Optimizer>(fusedopt::Adam{}, fusedopt::Options{})});
    optimizer.build(std::vector{variable.tensor()}, std::vector<std::size_t>{0});
    check_counters(optimizer, variable, {"iteration", "0/iteration"});
}

TEST(a_refused_count_is_named_exactly) {
    const fusedopt::LossScaleOptions options{.dynamic_growth_steps = std::numeric_limits<std::int64_t>::min() + 1};
    CHECK_REFUSED(fusedopt::LossScaleOptimizer(fusedopt::Optimizer(fusedopt::SGD{}, {}), options),
                  "found -9223372036854775807");
}
