// The optimizers once more, one element after another, in the order of operations the library promises.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "array.hpp"

namespace reference {

struct Now;  // formulas.hpp

/// A gradient as the library is given it; none without values. That of rows has their indices and their size.
struct Gradient {
    DType dtype;
    std::optional<Values> values;
    std::vector<std::int64_t> rows = {};
    std::size_t row_size = 0;  // 0: dense
};

/// Of Adafactor and Muon only what they do to vectors.
class Optimizer {
public:
    Optimizer(fusedopt::Rule rule, fusedopt::Options options);

    /// A variable of two or more dimensions has rows of `row_size` elements.
    void add(DType dtype, const Values& values, std::size_t row_size = 0);
    void set_unscale(double unscale) { unscale_ = unscale; }
    void step(const std::vector<Gradient>& gradients);

    /// As if the user had written into the variable.
    void write(std::size_t i, std::size_t element, double value) { variables_[i].weight[element] = value; }

    /// What the variable holds, rounded to its dtype.
    Values weights(std::size_t i) const { return rounded(variables_[i].dtype, variables_[i].weight); }

    /// What the array of this name in the library's `variables()` holds.
    Values state(const std::string& name) const;
    std::size_t state_count() const;
    std::optional<double> global_norm() const { return global_norm_; }

private:
    // Numbers of the compute type, which is float unless the variable is float64; double holds either exactly.
    struct Variable {
        DType dtype;
        Values weight;
        Values slots[3];
        Values average;
        Values accumulator;
        Values sum;            // accumulator and gradient, before they are averaged
        std::size_t row_size;  // 0: a row is an element
    };

    void accumulate(const std::vector<Gradient>& gradients, bool is_update);
    void update(const std::vector<Gradient>& gradients, const Now& now, std::int64_t interval);
    void update(Variable& variable, const Now& now, const Values& gradient);
    bool has_rows(const Variable& variable) const { return is_rowwise_ && variable.row_size > 0; }
    void average(double momentum, bool overwrite);

    fusedopt::Rule rule_;
    fusedopt::Options options_;
    double unscale_;
    double weight_decay_ = 0.0;
    bool keeps_product_ = false;
    bool is_rowwise_ = false;
    fusedopt::Hyperparameter learning_rate_ = 0.0;
    std::vector<std::string> slot_names_;
    std::vector<Variable> variables_;
    std::int64_t calls_ = 0;
    double product_ = 1.0;
    std::optional<double> global_norm_;
};

/// Empty where the library's optimizer holds what the reference holds, bit by bit.
template <class Library>
std::string difference(const Library& optimizer, const Optimizer& expected, std::span<const Tensor> variables) {
    for (std::size_t i = 0; i < variables.size(); ++i) {
        const std::string found = ::difference(values_of(variables[i]), expected.weights(i));
        if (!found.empty()) return "variable " + std::to_string(i) + ": " + found;
    }
    const auto state = optimizer.variables();
    if (state.size() != expected.state_count()) return "another number of state arrays";
    for (const auto& [name, tensor] : state) {
        const std::string found = ::difference(values_of(tensor), expected.state(name));
        if (!found.empty()) return name + ": " + found;
    }
    return "";
}

}  // namespace reference
