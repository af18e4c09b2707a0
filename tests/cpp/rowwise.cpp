// One second moment for each row: rules, options, dtypes and shapes, at every level, on one to three threads.
#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

namespace {

using namespace fusedopt;

const std::vector<RuleCase> rules = {
    {"Adagrad", Adagrad{.rowwise = true}},
    {"RMSprop", RMSprop{.rowwise = true}},
    {"RMSprop momentum", RMSprop{.momentum = 0.9, .rowwise = true}},
    {"Adam", Adam{.rowwise = true}},
    {"AdamW amsgrad", AdamW{.amsgrad = true, .rowwise = true}},
    {"Nadam", Nadam{.rowwise = true}},
    {"Yogi", Yogi{.rowwise = true}},
};

// Rows of one element, of parts of a cache line, of a tile and of more; three dimensions, and none to speak of.
const std::vector<Shape> shapes = {{6, 1}, {5, 7}, {3, 33}, {9, 16}, {2, 1024}, {2, 1500}, {4, 3, 5}, {40}, {0, 4}};

std::size_t row_size_of(const Shape& shape) {
    return shape.size() < 2 ? 0 : static_cast<std::size_t>(count(Shape(shape.begin() + 1, shape.end())));
}

/// A variable of each shape and dtype, with gradients whose dtype is another each time.
struct Tables {
    std::vector<Array> weights;
    std::vector<std::vector<Array>> gradients;

    Tables() : gradients(4) {
        unsigned seed = 1;
        std::size_t turn = 0;
        for (const DType dtype : all_dtypes) {
            for (const Shape& shape : shapes) {
                weights.emplace_back(dtype, shape, numbers(dtype, count(shape), seed++));
                for (std::vector<Array>& list : gradients) {
                    const DType of_gradient = all_dtypes[turn++ % 4];
                    list.emplace_back(of_gradient, shape, numbers(of_gradient, count(shape), seed++));
                }
            }
        }
    }
};

}  // namespace

TEST(rowwise_rules_give_the_bits_of_the_reference) {
    const Tables tables;
    for (const RuleCase& rule_case : rules) {
        for (const OptionCase& option_case : option_cases()) {
            reference::Optimizer expected(rule_case.rule, option_case.options);
            for (const Array& w : tables.weights) {
                const Tensor tensor = w.tensor();
                const auto extents = tensor.shape();
                expected.add(w.dtype(), values_of(w.tensor()), row_size_of(Shape(extents.begin(), extents.end())));
            }
            for (const std::vector<Array>& list : tables.gradients) {
                std::vector<reference::Gradient> gradients;
                for (const Array& g : list) gradients.push_back({g.dtype(), values_of(g.tensor())});
                expected.step(gradients);
            }
            on_every_level_and_thread_count([&](const std::string& where) {
                std::vector<Array> weights;
                for (const Array& w : tables.weights) weights.push_back(w.copy());
                const std::vector<Tensor> variables = tensors(weights);
                Optimizer optimizer(rule_case.rule, option_case.options);
                optimizer.build(variables);
                for (const std::vector<Array>& list : tables.gradients) optimizer.apply(tensors(list));
                const std::string found = difference(optimizer, expected, variables);
                CHECK_EQUAL(found.empty() ? "" : rule_case.name + ", " + option_case.name + ", " + where + found, "");
            });
        }
    }
}

TEST(a_row_has_one_second_moment) {
    const Array table(DType::float32, Shape{3, 5}, Values(15, 1.0)), vector(DType::float64, Values(4, 1.0));
    Optimizer optimizer(AdamW{.amsgrad = true, .rowwise = true});
    optimizer.build({table.tensor(), vector.tensor()});
    for (const auto& [name, tensor] : optimizer.variables()) {
        if (name == "velocity/0" || name == "velocity_hat/0") CHECK_EQUAL(tensor.size(), 3);
        if (name == "momentum/0") CHECK_EQUAL(tensor.size(), 15);
        if (name == "velocity/1") CHECK_EQUAL(tensor.size(), 4);
    }
}

TEST(the_centered_form_and_a_hosted_step_refuse_it) {
    CHECK_REFUSED(Optimizer(RMSprop{.centered = true, .rowwise = true}),
                  "centered, rowwise: expected at most one of them, found both");
    HostedVariable variable;
    const HostedGroup group{.rule = AdamW{.rowwise = true}, .variables = {&variable, 1}};
    HostedStep step;
    CHECK_REFUSED(step.run({&group, 1}, {}), "found AdamW with one second moment for each row");
}
