// What is copied between steps is all of one moment, whatever other threads do meanwhile.
#include <algorithm>
#include <atomic>
#include <thread>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

constexpr std::int64_t size = 50000;

using fusedopt::NamedTensor;

const NamedTensor& named(const std::vector<NamedTensor>& list, const std::string& name) {
    return *std::ranges::find(list, name, &NamedTensor::name);
}

std::int64_t count_of(const std::vector<NamedTensor>& list, const std::string& name) {
    return *static_cast<const std::int64_t*>(named(list, name).tensor.data());
}

// The element that all have, or -1.
double common_value(const Tensor& tensor) {
    const Values values = values_of(tensor);
    return std::ranges::all_of(values, [&](double value) { return value == values[0]; }) ? values[0] : -1.0;
}

// Looks while another thread steps, until both have done so often.
template <class Step, class Look>
void look_while_stepping(const Step& step, const Look& look) {
    constexpr int most = 20;
    std::atomic<int> looks = 0;
    std::atomic<bool> is_done = false;
    std::thread stepping([&] {
        for (int k = 0; k < most || looks < most; ++k) {
            step();
            std::this_thread::yield();
        }
        is_done = true;
    });
    for (; !is_done; ++looks) look();
    stepping.join();
    look();
}

// Plain gradient descent by 1 from 0, so that a variable is the number of its steps.
const fusedopt::Options counting{.learning_rate = 1.0};
const Array gradient(DType::float32, Values(size, -1.0));

}  // namespace

TEST(state_and_variables_of_an_optimizer_are_of_one_step) {
    const Array first(DType::float32, Values(size, 0.0)), second(DType::float64, Values(size, 0.0));
    fusedopt::Optimizer optimizer(fusedopt::SGD{}, counting);
    optimizer.build({first.tensor(), second.tensor()});
    const auto look = [&] {
        double one, other;
        std::int64_t count;
        optimizer.between_steps([&] {
            one = common_value(first.tensor());
            count = count_of(optimizer.state(), "iteration");
            other = common_value(second.tensor());
        });
        CHECK_EQUAL(one, static_cast<double>(count));
        CHECK_EQUAL(other, static_cast<double>(count));
    };
    look_while_stepping([&] { optimizer.apply({gradient.tensor(), gradient.tensor()}); }, look);
}

TEST(several_optimizers_are_of_one_step_and_so_is_their_scale) {
    const Array first(DType::float32, Values(size, 0.0)), second(DType::float64, Values(size, 0.0));
    const auto optimizers = std::make_shared<fusedopt::MultiOptimizer>(
        std::vector{std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{}, counting),
                    std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{}, counting)});
    optimizers->build(std::vector{first.tensor(), second.tensor()}, std::vector<std::size_t>{0, 1});
    fusedopt::LossScaleOptimizer scaled(optimizers, {.initial_scale = 1.0, .dynamic_growth_steps = 1000});
    const auto look = [&] {
        scaled.between_steps([&] {
            const auto count = static_cast<double>(scaled.step_counter());
            CHECK_EQUAL(common_value(first.tensor()), count);
            CHECK_EQUAL(static_cast<double>(count_of(scaled.state(), "0/iteration")), count);
            CHECK_EQUAL(common_value(second.tensor()), count);
            CHECK_EQUAL(static_cast<double>(count_of(scaled.state(), "1/iteration")), count);
        });
    };
    look_while_stepping([&] { scaled.apply({gradient.tensor(), gradient.tensor()}); }, look);
}

TEST(members_that_are_stepped_by_themselves_wait_too) {
    const Array first(DType::float32, Values(size, 0.0)), second(DType::float64, Values(size, 0.0));
    const auto member = std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{}, counting);
    fusedopt::MultiOptimizer optimizer({member, std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{}, counting)});
    optimizer.build(std::vector{first.tensor(), second.tensor()}, std::vector<std::size_t>{0, 1});
    const auto look = [&] {
        optimizer.between_steps([&] {
            CHECK_EQUAL(common_value(first.tensor()), static_cast<double>(count_of(optimizer.state(), "0/iteration")));
        });
    };
    look_while_stepping([&] { member->apply({gradient.tensor()}); }, look);
}

TEST(what_is_thrown_between_steps_comes_out_and_unlocks) {
    const Array variable(DType::float32, Values(4, 0.0)), small(DType::float32, Values(4, -1.0));
    fusedopt::Optimizer optimizer(fusedopt::SGD{}, counting);
    optimizer.build({variable.tensor()});
    CHECK_REFUSED(optimizer.between_steps([] { throw std::invalid_argument("from within"); }), "from within");
    optimizer.between_steps([&] { optimizer.apply({small.tensor()}); });
    std::thread([&] { optimizer.apply({small.tensor()}); }).join();
    CHECK_EQUAL(optimizer.iterations(), 2);
}
