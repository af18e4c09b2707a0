// Muon: its two branches, and the Newton-Schulz iteration between the sweeps, with the caller's matrix products.
// One file, though long: the iteration, its scratch memory and the check of a product belong to each other.
#include <algorithm>
#include <array>
#include <bit>
#include <cctype>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "engine/state.hpp"
#include "kernel/border/muon.hpp"
#include "rules/definition.hpp"
#include "rules/guard.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"
#include "runtime/memory.hpp"
#include "runtime/threads.hpp"

namespace fusedopt {
namespace {

constexpr std::size_t orthogonal = 0, adam = 1;
constexpr double norm_epsilon = 1e-7;  // Keras's, which is no argument

// A symmetric product is asked for in panels of rows. Smaller panels, or more of them, cost a BLAS more than they save.
constexpr std::int64_t panel_rows = 256, most_panels = 4;

// After products, a BLAS's threads hold the processors for some milliseconds more, and would stop a thread of ours.
constexpr std::int64_t most_alone = std::int64_t{1} << 22;

Adam adam_of(const Muon& rule) {
    return {.beta_1 = rule.adam_beta_1, .beta_2 = rule.adam_beta_2, .epsilon = rule.epsilon};
}

using Bfloat16 = std::uint16_t;

// The type of the matrices that are multiplied. Until a product is written, it holds a NaN that no arithmetic makes.
template <class T>
struct Stored;
template <>
struct Stored<float> {
    static constexpr DType dtype = DType::float32;
    static constexpr int kernels = 0;
    static constexpr std::uint32_t unwritten = 0x7fc67573;
};
template <>
struct Stored<double> {
    static constexpr DType dtype = DType::float64;
    static constexpr int kernels = 1;
    static constexpr std::uint64_t unwritten = 0x7ff8667573656466;
};
template <>
struct Stored<Bfloat16> {
    static constexpr DType dtype = DType::bfloat16;
    static constexpr int kernels = 2;
    static constexpr std::uint16_t unwritten = 0x7fe5;
};

class MuonProcedure final : public Procedure {
public:
    MuonProcedure(const Muon& rule, std::span<const Variable> variables, std::span<const kernel::Job> jobs)
        : rule_(rule) {
        std::size_t square_bytes = 0, matrix_bytes = 0;
        std::int64_t largest = 0;
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            if (jobs[i].branch != orthogonal || jobs[i].size == 0) continue;
            const auto shape = variables[i].tensor.shape();
            const Matrix matrix{i, shape[0], shape[1]};
            matrices_.push_back(matrix);
            const std::size_t item = item_size(jobs[i].computes_in_double ? DType::float64 : rule.product_dtype);
            const auto side = static_cast<std::size_t>(matrix.side());
            square_bytes = std::max(square_bytes, side * side * item);
            matrix_bytes = std::max(matrix_bytes, static_cast<std::size_t>(jobs[i].size) * item);
            largest = std::max(largest, jobs[i].size);
        }
        sums_.resize(static_cast<std::size_t>(tiles_of(largest)));
        const std::size_t symmetric = scratch_.reserve(square_bytes), panels = scratch_.reserve(square_bytes),
                          spare = scratch_.reserve(matrix_bytes), first = scratch_.reserve(matrix_bytes);
        scratch_.allocate();
        symmetric_ = scratch_.at(symmetric);
        panels_ = scratch_.at(panels);
        spare_ = scratch_.at(spare);
        first_ = scratch_.at(first);
    }

    void evaluate(std::span<const kernel::Job> jobs, std::span<const kernel::Step> steps) override {
        has_multiplied_ = false;
        for (const Matrix& matrix : matrices_) {
            const kernel::Job& job = jobs[matrix.variable];
            if (job.work != kernel::Work::update) continue;
            if (job.computes_in_double) {
                orthogonalize<double>(matrix, job, steps[orthogonal]);
            } else if (rule_.product_dtype == DType::bfloat16) {
                orthogonalize<Bfloat16>(matrix, job, steps[orthogonal]);
            } else {
                orthogonalize<float>(matrix, job, steps[orthogonal]);
            }
            has_multiplied_ = true;
        }
    }

    int sweep_threads(std::int64_t elements) const override {
        return has_multiplied_ && elements < most_alone ? 1 : threads_for(elements);
    }

private:
    struct Matrix {
        std::size_t variable;
        std::int64_t rows, columns;

        std::int64_t side() const { return std::min(rows, columns); }
        std::int64_t length() const { return std::max(rows, columns); }
        bool is_tall() const { return rows > columns; }
    };

    /// Where the first X lies. The second one goes elsewhere.
    void* first() const {
        const bool needs_memory = rule_.ns_steps % 2 == 0 || rule_.product_dtype == DType::bfloat16;
        return needs_memory ? first_ : spare_;
    }

    static std::int64_t tiles_of(std::int64_t elements) { return (elements + kernel::tile - 1) / kernel::tile; }

    template <class T>
    static Tensor view(const void* data, std::int64_t rows, std::int64_t columns) {
        return Tensor(const_cast<void*>(data), Stored<T>::dtype, std::array{rows, columns});
    }

    template <class T>
    static Tensor transposed(const void* data, std::int64_t rows, std::int64_t columns) {
        constexpr auto item = static_cast<std::int64_t>(sizeof(T));
        return Tensor(const_cast<void*>(data), Stored<T>::dtype, std::array{columns, rows},
                      std::array{item, columns * item});
    }

    template <class T>
    void multiply(const Tensor& a, const Tensor& b, const Tensor& product) const {
        T* const first = static_cast<T*>(product.data());
        T* const last = first + product.size() - 1;
        constexpr auto unwritten = Stored<T>::unwritten;
        *first = *last = std::bit_cast<T>(unwritten);
        rule_.matrix_product(a, b, product);
        const auto is_unwritten = [](T element) {
            return std::bit_cast<std::remove_const_t<decltype(unwritten)>>(element) == unwritten;
        };
        if (is_unwritten(*first) || is_unwritten(*last)) {
            throw std::invalid_argument(
                "matrix_product: expected the product of its first two arguments in the third one, found that not "
                "written; write it there, as numpy.matmul(a, b, out) does");
        }
    }

    /// S <- a I + b S + c X X^T, of which only a staircase at and below the diagonal is asked for.
    template <class T>
    void fold_square(const double (&polynomial)[3], const void* x, std::int64_t side, std::int64_t length) {
        const std::int64_t count = std::clamp<std::int64_t>(side / panel_rows, 1, most_panels);
        const T* const rows = static_cast<const T*>(x);
        const auto for_each_panel = [&](const auto& work) {
            T* panel = static_cast<T*>(panels_);
            for (std::int64_t i = 0; i < count; ++i) {
                const std::int64_t begin = side * i / count, end = side * (i + 1) / count;
                work(begin, end, panel);
                panel += (end - begin) * end;
            }
        };
        for_each_panel([&](std::int64_t begin, std::int64_t end, T* panel) {
            multiply<T>(view<T>(rows + begin * length, end - begin, length), transposed<T>(rows, end, length),
                        view<T>(panel, end - begin, end));
        });
        const FloatEnvironment environment;
        for_each_panel([&](std::int64_t begin, std::int64_t end, const T* panel) {
            kernels<T>().fold(polynomial, panel, begin, end, side, symmetric_);
        });
    }

    template <class T>
    static const kernel::MuonKernels& kernels() {
        return current_kernels().muon[Stored<T>::kernels];
    }

    /// d, X = d / (|d| + epsilon) with no more rows than columns, and the last polynomial. All of it runs on this
    /// thread. Other threads of ours would go on spinning while the caller's product needs the processors.
    template <class T>
    void normalize(const Matrix& matrix, const kernel::Job& job, const kernel::Step& step) {
        const FloatEnvironment environment;
        kernels<T>().make_direction(step, job, 0, job.size, sums_.data());
        double sum = 0.0;
        for (std::int64_t k = 0; k < tiles_of(job.size); ++k) sum += sums_[static_cast<std::size_t>(k)];
        const auto length = static_cast<double>(matrix.length());
        const double size = rule_.rms_rate ? std::sqrt(length) * *rule_.rms_rate : 1.0;
        const double polynomial[3] = {rule_.muon_a, rule_.muon_b, rule_.muon_c};
        for (int k = 0; k < 3; ++k) {
            polynomial_[k] = polynomial[k];
            last_[k] = size * polynomial[k];
        }
        kernels<T>().scale(1.0 / (std::sqrt(sum) + norm_epsilon), job.slots[1], matrix.rows, matrix.columns,
                           matrix.is_tall(), first());
    }

    /// Newton-Schulz:  S = X X^T,  X <- (a I + b S + c S^2) X, from one memory to another. The last one lands in
    /// slot 1, through a spare memory if it must be widened for that.
    template <class T>
    void orthogonalize(const Matrix& matrix, const kernel::Job& job, const kernel::Step& step) {
        constexpr bool is_narrow = std::is_same_v<T, Bfloat16>;
        const std::int64_t side = matrix.side(), length = matrix.length();
        normalize<T>(matrix, job, step);
        void* const last = is_narrow ? spare_ : job.slots[1];
        void* const other = is_narrow ? job.slots[1] : spare_;
        const void* x = first();
        for (std::int64_t left = rule_.ns_steps; left > 0; --left) {
            void* const next = left % 2 == 1 ? last : other;
            fold_square<T>({0.0, 0.0, 1.0}, x, side, length);
            fold_square<T>(left == 1 ? last_ : polynomial_, symmetric_, side, side);
            const Tensor polynomial = view<T>(symmetric_, side, side);
            if (left == 1 && matrix.is_tall()) {
                multiply<T>(transposed<T>(x, side, length), polynomial, view<T>(next, length, side));
            } else {
                multiply<T>(polynomial, view<T>(x, side, length), view<T>(next, side, length));
            }
            x = next;
        }
        if constexpr (is_narrow) kernels<T>().widen(x, job.size, job.slots[1]);
    }

    const Muon& rule_;  // the optimizer's, which may change between two steps
    std::vector<Matrix> matrices_;
    std::vector<double> sums_;
    double polynomial_[3] = {};
    double last_[3] = {};  // of the last product, which also gives X its size
    bool has_multiplied_ = false;
    Arena scratch_;  // as large as the largest matrix needs
    void* symmetric_ = nullptr;
    void* panels_ = nullptr;
    void* spare_ = nullptr;  // X lies here and in slot 1 by turns
    void* first_ = nullptr;  // the first X if ns_steps is even; memory that is not used takes none
};

}  // namespace

bool Muon::excludes_embeddings(const std::string& variable) {
    std::string lower = variable;
    std::ranges::transform(lower, lower.begin(), [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return lower.find("embedding") != std::string::npos;
}

/// Three products in each of five iterations, of which two are asked for by halves. On an EPYC, some twenty numbers are
/// multiplied and added in the time that a sweep takes for an element.
static double cost_of_products(const Tensor& matrix) {
    const auto [shorter, longer] = std::minmax(matrix.shape()[0], matrix.shape()[1]);
    const auto side = static_cast<double>(shorter), length = static_cast<double>(longer);
    const double multiplied = 5.0 * side * side * (length / 2.0 + side / 2.0 + length);
    return elements_of(matrix) + multiplied / 20.0;
}

static std::vector<RuleSpec> specify_branches(const Muon& rule) {
    if (rule.product_dtype != DType::float32 && rule.product_dtype != DType::bfloat16) {
        throw std::invalid_argument("product_dtype: expected float32 or bfloat16, found " +
                                    std::string(to_string(rule.product_dtype)) +
                                    "; float64 variables have products of float64 with either");
    }
    RuleSpec of_matrices{kernel::RuleId::Muon, 0.001, rule.weight_decay, {{"momentum", 0}, {"direction", 0}}};
    of_matrices.slots[1].form = Form::hidden;
    of_matrices.cost = cost_of_products;
    of_matrices.no_rows =
        "Muon's products take the whole matrix (exclude it from Muon's, and Adam's formula takes rows)";
    RuleSpec of_others = Definition<Adam>::branches(adam_of(rule)).front();
    of_others.weight_decay = rule.adam_weight_decay;
    return {of_matrices, of_others};
}

static std::size_t branch_of(const Muon& rule, const Tensor& variable, const std::string& name) {
    return variable.rank() == 2 && !rule.excludes(name) ? orthogonal : adam;
}

static kernel::Scalars scalars_of(const Muon& rule, const Now& now, std::size_t branch) {
    if (branch == adam) {
        Now of_adam = now;
        of_adam.learning_rate = now.learning_rate * rule.adam_lr_ratio;
        of_adam.beta_1 = rule.adam_beta_1;
        of_adam.beta_2 = rule.adam_beta_2;
        return Definition<Adam>::scalars(adam_of(rule), of_adam, 0);
    }
    return pack(kernel::MuonScalars<double>{
        .lr = now.learning_rate,
        .mu = rule.momentum,
        .nesterov = rule.nesterov ? 1.0 : 0.0,
    });
}

static kernel::Guard guard_of(const Muon& rule, const Now& now, std::size_t branch) {
    if (branch != adam) return {};
    Now of_adam = now;
    of_adam.beta_1 = rule.adam_beta_1;
    of_adam.beta_2 = rule.adam_beta_2;
    return adam_guard(of_adam);
}

static std::unique_ptr<Procedure> make_procedure(const Muon& rule, std::span<const Variable> variables,
                                                 std::span<const kernel::Job> jobs) {
    return std::make_unique<MuonProcedure>(rule, variables, jobs);
}

static kernel::Missed missed_of(const Muon& rule, const kernel::Scalars& scalars, std::size_t) {
    return Definition<Adam>::missed(adam_of(rule), scalars, 0);  // of Adam's branch, as matrices take no rows
}

template struct Definition<Muon>;

}  // namespace fusedopt
