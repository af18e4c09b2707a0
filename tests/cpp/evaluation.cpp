// Weights for an evaluation in the place of those in training: the same bits on every level, and back again.
#include <cmath>
#include <memory>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

constexpr std::int64_t size = 5000;
const fusedopt::Options averaging{.learning_rate = 0.1, .use_ema = true, .ema_momentum = 0.5};

Array gradient(unsigned step) {
    return {DType::float32, numbers(DType::float32, size, 10 + step)};
}

template <class AnyOptimizer>
std::vector<std::byte> everything(const AnyOptimizer& optimizer, const std::vector<Array>& variables) {
    std::vector<Tensor> tensors;
    for (const Array& variable : variables) tensors.push_back(variable.tensor());
    return snapshot(optimizer, tensors);
}

}  // namespace

TEST(averages_are_lent_and_taken_back) {
    for (const DType dtype : all_dtypes) {
        on_every_level_and_thread_count([&](const std::string& where) {
            std::vector<Array> variables;
            variables.emplace_back(dtype, numbers(dtype, size, 1));
            fusedopt::Optimizer optimizer(fusedopt::Adam{}, averaging);
            optimizer.build({variables[0].tensor()});
            for (unsigned k = 0; k < 3; ++k) optimizer.apply({gradient(k).tensor()});
            const std::vector<std::byte> before = everything(optimizer, variables);
            const Values average = values_of(optimizer.variables()[2].tensor);
            CHECK(!optimizer.evaluating());
            optimizer.begin_evaluation();
            CHECK(optimizer.evaluating());
            const std::string found = difference(values_of(variables[0].tensor()), rounded(dtype, average));
            CHECK_EQUAL(found.empty() ? "" : where + ": " + found, "");
            optimizer.end_evaluation();
            CHECK(everything(optimizer, variables) == before);
            optimizer.apply({gradient(3).tensor()});
        });
    }
}

TEST(a_schedule_free_rule_lends_its_x) {
    for (const DType dtype : all_dtypes) {
        std::vector<double> first;
        on_every_level_and_thread_count([&](const std::string& where) {
            std::vector<Array> variables;
            variables.emplace_back(dtype, numbers(dtype, size, 1));
            fusedopt::Optimizer optimizer(fusedopt::ScheduleFreeAdamW{.beta_1 = 0.8}, {.learning_rate = 0.1});
            optimizer.build({variables[0].tensor()});
            for (unsigned k = 0; k < 3; ++k) optimizer.apply({gradient(k).tensor()});
            const std::vector<std::byte> before = everything(optimizer, variables);
            const Values y = values_of(variables[0].tensor()), z = values_of(optimizer.variables()[2].tensor);
            optimizer.begin_evaluation();
            const Values x = values_of(variables[0].tensor());
            if (first.empty()) first = x;
            const double tolerance = dtype == DType::float64 ? 1e-12 : dtype == DType::float32 ? 1e-5 : 0.05;
            bool is_near = x == first;
            for (std::size_t i = 0; i < x.size(); ++i) {
                is_near = is_near && std::fabs(x[i] - (y[i] - 0.2 * z[i]) / 0.8) <= tolerance * (1 + std::fabs(x[i]));
            }
            CHECK_EQUAL(is_near ? "" : where, "");
            optimizer.end_evaluation();
            CHECK(everything(optimizer, variables) == before);
        });
    }
}

TEST(inside_an_evaluation_what_needs_the_weights_in_training_is_refused) {
    std::vector<Array> variables;
    variables.emplace_back(DType::float32, numbers(DType::float32, size, 1));
    variables.emplace_back(DType::bfloat16, numbers(DType::bfloat16, size, 2));
    const std::vector<Tensor> tensors{variables[0].tensor(), variables[1].tensor()};
    const Array g = gradient(0);
    const std::vector<Tensor> gradients{g.tensor(), g.tensor()};
    const auto average = std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{}, averaging);
    const auto plain = std::make_shared<fusedopt::Optimizer>(fusedopt::SGD{});
    const auto several = std::make_shared<fusedopt::MultiOptimizer>(std::vector{average, plain});
    fusedopt::LossScaleOptimizer scaled(several);
    CHECK_REFUSED(scaled.begin_evaluation(), "not built");
    several->build(tensors, std::vector<std::size_t>{0, 1});
    scaled.apply(gradients);
    const std::vector<std::byte> before = everything(scaled, variables);
    CHECK_REFUSED(scaled.end_evaluation(), "found none");
    CHECK_REFUSED(plain->begin_evaluation(), "use_ema");
    scaled.begin_evaluation();
    CHECK(several->evaluating() && average->evaluating());
    std::vector<Tensor> values;
    for (const auto& [name, tensor] : scaled.variables()) values.push_back(tensor);
    const std::string lent = "lent to an evaluation";
    CHECK_REFUSED(scaled.begin_evaluation(), lent);
    CHECK_REFUSED(average->begin_evaluation(), lent);
    CHECK_REFUSED(scaled.apply(gradients), lent);
    CHECK_REFUSED(average->apply({g.tensor()}), lent);
    CHECK_REFUSED(scaled.set_weights(values), lent);
    CHECK_REFUSED(several->finalize_variable_values(tensors), lent);
    CHECK_REFUSED(scaled.between_steps([] {}), lent);
    scaled.end_evaluation();
    CHECK(!scaled.evaluating() && !average->evaluating());
    CHECK(everything(scaled, variables) == before);
    CHECK(scaled.apply(gradients));
}
