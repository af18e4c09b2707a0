// Muon: its two branches, and the Newton-Schulz iteration between the sweeps, with the caller's matrix products.
#include <algorithm>
#include <cctype>
#include <cmath>
#include <regex>
#include <stdexcept>
#include <string>
#include <vector>

#include "check.hpp"
#include "float_environment.hpp"
#include "levels.hpp"
#include "memory.hpp"
#include "plan.hpp"
#include "procedure.hpp"
#include "rule.hpp"
#include "state.hpp"

namespace fusedopt {
namespace {

constexpr std::size_t orthogonal = 0, adam = 1;
constexpr double norm_epsilon = 1e-7;  // Keras's, which is no argument

Adam adam_of(const Muon& rule) {
    return {.beta_1 = rule.adam_beta_1, .beta_2 = rule.adam_beta_2, .epsilon = rule.epsilon};
}

class MuonProcedure final : public Procedure {
public:
    MuonProcedure(const Muon& rule, std::span<const Variable> variables, std::span<const kernel::Job> jobs)
        : rule_(rule) {
        std::size_t gram_bytes = 0, matrix_bytes = 0;
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            if (jobs[i].branch != orthogonal || jobs[i].size == 0) continue;
            const auto shape = variables[i].tensor.shape();
            const Matrix matrix{i, shape[0], shape[1], jobs[i].first_partial};
            matrices_.push_back(matrix);
            const std::size_t item = jobs[i].computes_in_double ? 8 : 4;
            const auto side = static_cast<std::size_t>(std::min(matrix.rows, matrix.columns));
            gram_bytes = std::max(gram_bytes, side * side * item);
            matrix_bytes = std::max(matrix_bytes, static_cast<std::size_t>(jobs[i].size) * item);
            sums_.resize(matrix.first_partial +
                         static_cast<std::size_t>((jobs[i].size + kernel::tile - 1) / kernel::tile));
        }
        const std::size_t gram = scratch_.reserve(gram_bytes), square = scratch_.reserve(gram_bytes),
                          product = scratch_.reserve(matrix_bytes);
        scratch_.allocate();
        gram_ = scratch_.at(gram);
        square_ = scratch_.at(square);
        product_ = scratch_.at(product);
        plan_.reserve(jobs.size());
    }

    void evaluate(std::span<const kernel::Job> jobs, std::span<const kernel::Step> steps) override {
        plan_.clear();
        for (const Matrix& matrix : matrices_) {
            if (jobs[matrix.variable].work == kernel::Work::update)
                plan_.add(matrix.variable, jobs[matrix.variable].size);
        }
        const auto& kernels = current_kernels().muon;
        plan_.run([&](std::size_t i, std::int64_t begin, std::int64_t end) {
            const auto matrix = std::ranges::lower_bound(matrices_, i, {}, &Matrix::variable);
            kernels[jobs[i].computes_in_double].direct(steps[orthogonal], jobs[i], begin, end,
                                                       sums_.data() + matrix->first_partial);
        });
        for (const Matrix& matrix : matrices_) {
            if (jobs[matrix.variable].work == kernel::Work::update) orthogonalize(matrix, jobs[matrix.variable]);
        }
    }

private:
    struct Matrix {
        std::size_t variable;
        std::int64_t rows, columns;
        std::size_t first_partial;
    };

    struct Scalars {
        double inverse_norm, size, last_a;
    };

    // Apart from the products, which run in the caller's floating-point state.
    Scalars scalars_of(const Matrix& matrix, const kernel::Job& job) const {
        const FloatEnvironment environment;
        double sum = 0.0;
        for (std::int64_t k = 0; k < (job.size + kernel::tile - 1) / kernel::tile; ++k) {
            sum += sums_[matrix.first_partial + static_cast<std::size_t>(k)];
        }
        const auto longest = static_cast<double>(std::max(matrix.rows, matrix.columns));
        const double size = rule_.rms_rate ? std::sqrt(longest) * *rule_.rms_rate : 1.0;
        return {1.0 / (std::sqrt(sum) + norm_epsilon), size, size * rule_.muon_a};
    }

    // On this thread alone: ours would go on spinning while the caller's product needs the processors.
    static void combine(bool in_double, std::int64_t elements, double a, const void* x, double b, const void* y,
                        void* out) {
        const FloatEnvironment environment;
        current_kernels().muon[in_double].combine(a, x, b, y, out, 0, elements);
    }

    /// Newton-Schulz:  S = X X^T,  X <- a X + (b S + c S^2) X;  for more rows than columns the same on the other side.
    void orthogonalize(const Matrix& matrix, const kernel::Job& job) {
        const bool in_double = job.computes_in_double;
        const DType dtype = in_double ? DType::float64 : DType::float32;
        const std::int64_t item = in_double ? 8 : 4, rows = matrix.rows, columns = matrix.columns;
        const bool is_wide = rows <= columns;
        const std::int64_t side = std::min(rows, columns);
        const auto view = [&](void* data, std::int64_t height, std::int64_t width) {
            return Tensor(data, dtype, std::array{height, width});
        };
        void* const direction = job.slots[1];
        const Tensor x = view(direction, rows, columns);
        const Tensor transposed(direction, dtype, std::array{columns, rows}, std::array{item, columns * item});
        const Tensor gram = view(gram_, side, side), square = view(square_, side, side);
        const Tensor product = view(product_, rows, columns);

        const Scalars scalars = scalars_of(matrix, job);
        combine(in_double, job.size, scalars.inverse_norm, direction, 0.0, direction, direction);
        for (std::int64_t k = 0; k < rule_.ns_steps; ++k) {
            const bool is_last = k + 1 == rule_.ns_steps;
            is_wide ? rule_.matrix_product(x, transposed, gram) : rule_.matrix_product(transposed, x, gram);
            rule_.matrix_product(gram, gram, square);
            combine(in_double, side * side, rule_.muon_b, gram_, rule_.muon_c, square_, gram_);
            is_wide ? rule_.matrix_product(gram, x, product) : rule_.matrix_product(x, gram, product);
            combine(in_double, job.size, is_last ? scalars.last_a : rule_.muon_a, direction,
                    is_last ? scalars.size : 1.0, product_, direction);
        }
    }

    Muon rule_;
    std::vector<Matrix> matrices_;
    std::vector<double> sums_;
    Arena scratch_;  // as large as the largest matrix needs
    void* gram_ = nullptr;
    void* square_ = nullptr;
    void* product_ = nullptr;
    SweepPlan plan_;
};

}  // namespace

Muon::Exclusion Muon::excluding(const std::vector<std::string>& exclude_layers, bool exclude_embeddings) {
    std::vector<std::regex> patterns;
    for (const std::string& layer : exclude_layers) {
        try {
            patterns.emplace_back(layer);
        } catch (const std::regex_error& error) {
            throw std::invalid_argument("exclude_layers: expected a regular expression, found '" + layer + "' (" +
                                        error.what() + ")");
        }
    }
    return [patterns = std::move(patterns), exclude_embeddings](const std::string& name) {
        std::string lower = name;
        std::ranges::transform(lower, lower.begin(),
                               [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
        return (exclude_embeddings && lower.find("embedding") != std::string::npos) ||
               std::ranges::any_of(patterns, [&](const std::regex& p) { return std::regex_search(name, p); });
    };
}

std::vector<RuleSpec> specify_branches(const Muon& rule) {
    if (!rule.matrix_product) throw std::invalid_argument("matrix_product: expected a function, found none");
    if (!rule.excludes) throw std::invalid_argument("excludes: expected a function, found none");
    require_below_one("adam_beta_1", rule.adam_beta_1);
    require_below_one("adam_beta_2", rule.adam_beta_2);
    require_not_negative("weight_decay", rule.weight_decay);
    require_not_negative("adam_weight_decay", rule.adam_weight_decay);
    require_not_negative("adam_lr_ratio", rule.adam_lr_ratio);
    require_at_most_one("momentum", rule.momentum);
    require_finite("muon_a", rule.muon_a);
    require_finite("muon_b", rule.muon_b);
    require_finite("muon_c", rule.muon_c);
    require_count("ns_steps", rule.ns_steps, 1);
    if (rule.rms_rate) require_positive("rms_rate", *rule.rms_rate);
    RuleSpec of_matrices{kernel::RuleId::Muon, 0.001, rule.weight_decay, {{"momentum", 0}, {"direction", 0}}};
    of_matrices.slots[1].form = Form::hidden;
    RuleSpec of_others = specify(adam_of(rule));
    of_others.weight_decay = rule.adam_weight_decay;
    return {of_matrices, of_others};
}

std::size_t branch_of(const Muon& rule, const Tensor& variable, const std::string& name) {
    return variable.rank() == 2 && !rule.excludes(name) ? orthogonal : adam;
}

void compute_scalars(const Muon& rule, const Moment& moment, std::size_t branch, double* scalars) {
    if (branch == adam) {
        Moment of_adam = moment;
        of_adam.learning_rate = moment.learning_rate * rule.adam_lr_ratio;
        of_adam.beta_1 = rule.adam_beta_1;
        of_adam.beta_2 = rule.adam_beta_2;
        compute_scalars(adam_of(rule), of_adam, scalars);
        return;
    }
    scalars[0] = moment.learning_rate;
    scalars[1] = rule.momentum;
    scalars[2] = rule.nesterov ? 1.0 : 0.0;
}

std::unique_ptr<Procedure> make_procedure(const Muon& rule, std::span<const Variable> variables,
                                          std::span<const kernel::Job> jobs) {
    return std::make_unique<MuonProcedure>(rule, variables, jobs);
}

}  // namespace fusedopt
