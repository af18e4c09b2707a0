// Adafactor: its two branches, and a step's three sweeps with the means and norms that are put together between them.
// One file, though long: how blocks are cut, summed and put together again is one plan, and nobody else needs it.
#include <algorithm>
#include <cmath>
#include <vector>

#include "engine/plan.hpp"
#include "engine/state.hpp"
#include "kernel/border/adafactor.hpp"
#include "rules/definition.hpp"
#include "runtime/float_environment.hpp"
#include "runtime/levels.hpp"
#include "runtime/memory.hpp"

namespace fusedopt {
namespace {

constexpr std::size_t factored = 0, unfactored = 1;

// Blocks are cut alike for every number of threads, so sums are, too. With 64 rows or more the columns' sums of all
// blocks take 1/32 of a float32 gradient's memory.
constexpr std::int64_t least_rows = 64;
constexpr std::int64_t block_elements = 64 * kernel::tile;

std::int64_t divide_up(std::int64_t a, std::int64_t b) {
    return (a + b - 1) / b;
}

/// One variable: a stack of matrices, or one row if it is not factored.
struct Part {
    std::size_t variable;
    bool is_factored;
    std::int64_t matrices, rows, columns;
    std::int64_t row_blocks, column_blocks;  // of a matrix
    std::size_t first_block, blocks;
    std::size_t first_segment;  // of `row_blocks` for the rows and `column_blocks` for the columns of each matrix
};

/// Means of rows or columns that are averaged at a time.
struct Segment {
    void* means;    // of the whole matrix
    void* factors;  // of columns
    const double* sums;
    std::int64_t parts, stride, terms, begin, end;
    bool in_double;
    double total = 0.0;
};

class AdafactorProcedure final : public Procedure {
public:
    AdafactorProcedure(const Adafactor& rule, std::span<const Variable> variables, std::span<const kernel::Job> jobs)
        : rule_(rule) {
        std::vector<std::size_t> offsets;
        for (std::size_t i = 0; i < jobs.size(); ++i) {
            if (jobs[i].size > 0) add_part(i, variables[i].tensor, jobs[i].branch == factored, offsets);
        }
        sums_.allocate();
        auto offset = offsets.begin();
        for (const Part& part : parts_) {
            if (part.is_factored) {
                const auto next = [&] { return sums_.at(*offset++); };
                auto* const row_sums = reinterpret_cast<double*>(next());
                auto* const column_sums = reinterpret_cast<double*>(next());
                connect(part, jobs[part.variable], row_sums, column_sums, next());
            }
        }
        squares_.resize(blocks_.size());
        for (std::size_t k = 0; k < blocks_.size(); ++k) blocks_[k].squares = &squares_[k];
        block_plan_.reserve(blocks_.size());
        segment_plan_.reserve(segments_.size());
    }

    void commit(std::span<kernel::Job> jobs, std::span<const kernel::Step> steps, const SweepPlan&) override {
        const kernel::AdafactorKernels* const kernels = current_kernels().adafactor;
        const auto scalars = unpack<kernel::AdafactorScalars>(steps[factored].scalars);
        const auto sweep = [&](kernel::BlockFunction kernel::AdafactorKernels::*of_factored,
                               kernel::BlockFunction kernel::AdafactorKernels::*of_unfactored) {
            block_plan_.clear();
            for (const Part& part : parts_) {
                if (jobs[part.variable].work != kernel::Work::update ||
                    !(part.is_factored ? of_factored : of_unfactored)) {
                    continue;
                }
                for (std::size_t k = part.first_block; k < part.first_block + part.blocks; ++k) {
                    block_plan_.add(k, blocks_[k].rows * blocks_[k].columns);
                }
            }
            block_plan_.run([&](std::size_t k) {
                const kernel::Job& job = jobs[block_variables_[k]];
                const auto function = job.branch == factored ? of_factored : of_unfactored;
                (kernels[job.computes_in_double].*function)(steps[job.branch], job, blocks_[k]);
            });
        };
        sweep(&kernel::AdafactorKernels::sums, &kernel::AdafactorKernels::advance_unfactored);
        average(jobs, scalars);
        sweep(&kernel::AdafactorKernels::measure_update, nullptr);
        set_ratios(jobs, scalars.rho);
        sweep(&kernel::AdafactorKernels::settle, &kernel::AdafactorKernels::settle_unfactored);
    }

    void derive(std::size_t index, const kernel::Job& job, std::byte* out) override {
        const auto part = std::ranges::find(parts_, index, &Part::variable);
        if (part == parts_.end()) return;
        const FloatEnvironment environment;
        const kernel::AdafactorKernels& kernels = current_kernels().adafactor[job.computes_in_double];
        const auto bytes = static_cast<std::int64_t>(item_size(compute_type(job)));
        const auto row_mean = [&](std::int64_t i) {
            return job.computes_in_double ? static_cast<const double*>(job.slots[0])[i]
                                          : static_cast<double>(static_cast<const float*>(job.slots[0])[i]);
        };
        for (std::int64_t matrix = 0; matrix < part->matrices; ++matrix) {
            double total = 0.0;
            for (std::int64_t i = 0; i < part->rows; ++i) total += row_mean(matrix * part->rows + i);
            const auto* columns = static_cast<const std::byte*>(job.slots[1]) + matrix * part->columns * bytes;
            for (std::int64_t i = 0; i < part->rows; ++i) {
                const std::int64_t row = matrix * part->rows + i;
                kernels.expand(row_mean(row), total / static_cast<double>(part->rows), columns, part->columns,
                               out + row * part->columns * bytes);
            }
        }
    }

private:
    void add_part(std::size_t index, const Tensor& tensor, bool is_factored, std::vector<std::size_t>& offsets) {
        Part part{
            index, is_factored,     1, 1, tensor.size(), 1, divide_up(tensor.size(), block_elements), blocks_.size(),
            0,     segments_.size()};
        std::int64_t block_rows = 1, block_columns = block_elements;
        if (is_factored) {
            part.columns = tensor.shape().back();
            part.rows = tensor.shape()[tensor.rank() - 2];
            part.matrices = tensor.size() / (part.rows * part.columns);
            block_columns = kernel::widest_block;
            block_rows = std::max(least_rows, block_elements / part.columns);
            part.row_blocks = divide_up(part.rows, block_rows);
            part.column_blocks = divide_up(part.columns, block_columns);
            const auto reserve = [&](std::int64_t doubles) {
                offsets.push_back(sums_.reserve(static_cast<std::size_t>(doubles) * sizeof(double)));
            };
            reserve(part.matrices * part.column_blocks * part.rows);
            reserve(part.matrices * part.row_blocks * part.columns);
            reserve(part.matrices * part.columns);  // factors, of double or less
            segments_.resize(segments_.size() +
                             static_cast<std::size_t>(part.matrices * (part.row_blocks + part.column_blocks)));
        }
        for (std::int64_t row = 0; row < part.matrices * part.rows;) {
            const std::int64_t rows = std::min(block_rows, part.rows - row % part.rows);
            for (std::int64_t column = 0; column < part.columns; column += block_columns) {
                kernel::Block block{};
                block.first = row * part.columns + column;
                block.row_length = part.columns;
                block.rows = rows;
                block.columns = std::min(block_columns, part.columns - column);
                blocks_.push_back(block);
                block_variables_.push_back(index);
            }
            row += rows;
        }
        part.blocks = blocks_.size() - part.first_block;
        parts_.push_back(part);
    }

    /// Tells a factored variable's blocks and segments where their means, factors and sums lie.
    void connect(const Part& part, const kernel::Job& job, double* row_sums, double* column_sums, std::byte* factors) {
        const auto bytes = static_cast<std::int64_t>(item_size(compute_type(job)));
        std::size_t k = part.first_block, segment = part.first_segment;
        for (std::int64_t matrix = 0; matrix < part.matrices; ++matrix) {
            std::byte* const r = static_cast<std::byte*>(job.slots[0]) + matrix * part.rows * bytes;
            std::byte* const c = static_cast<std::byte*>(job.slots[1]) + matrix * part.columns * bytes;
            std::byte* const f = factors + matrix * part.columns * bytes;
            std::int64_t row = 0;
            for (std::int64_t down = 0; down < part.row_blocks; ++down) {
                std::int64_t column = 0;
                for (std::int64_t across = 0; across < part.column_blocks; ++across) {
                    kernel::Block& block = blocks_[k++];
                    block.row_means = r + row * bytes;
                    block.column_factors = f + column * bytes;
                    block.row_sums = row_sums + across * part.rows + row;
                    block.column_sums = column_sums + down * part.columns + column;
                    column += block.columns;
                    if (down == 0) {
                        segments_[segment + static_cast<std::size_t>(part.row_blocks + across)] = {
                            .means = c,
                            .factors = f,
                            .sums = column_sums,
                            .parts = part.row_blocks,
                            .stride = part.columns,
                            .terms = part.rows,
                            .begin = column - block.columns,
                            .end = column,
                            .in_double = job.computes_in_double,
                        };
                    }
                }
                const std::int64_t rows = blocks_[k - 1].rows;
                segments_[segment + static_cast<std::size_t>(down)] = {
                    .means = r,
                    .factors = nullptr,
                    .sums = row_sums,
                    .parts = part.column_blocks,
                    .stride = part.rows,
                    .terms = part.columns,
                    .begin = row,
                    .end = row + rows,
                    .in_double = job.computes_in_double,
                };
                row += rows;
            }
            segment += static_cast<std::size_t>(part.row_blocks + part.column_blocks);
            row_sums += part.column_blocks * part.rows;
            column_sums += part.row_blocks * part.columns;
        }
    }

    static std::size_t segments_of_matrix(const Part& part) {
        return static_cast<std::size_t>(part.row_blocks + part.column_blocks);
    }

    /// Moves the means of rows and columns, and gives each block the mean over its matrix's rows.
    void average(std::span<const kernel::Job> jobs, const kernel::AdafactorScalars<double>& scalars) {
        segment_plan_.clear();
        const auto for_each_factored = [&](const auto& body) {
            for (const Part& part : parts_) {
                if (part.is_factored && jobs[part.variable].work == kernel::Work::update) body(part);
            }
        };
        for_each_factored([&](const Part& part) {
            const std::size_t count = static_cast<std::size_t>(part.matrices) * segments_of_matrix(part);
            for (std::size_t k = part.first_segment; k < part.first_segment + count; ++k) {
                segment_plan_.add(k, (segments_[k].end - segments_[k].begin) * segments_[k].parts);
            }
        });
        segment_plan_.run([&](std::size_t k) {
            Segment& segment = segments_[k];
            const auto& kernels = current_kernels().adafactor[segment.in_double];
            segment.total = kernels.average(segment.means, segment.factors, scalars.b, scalars.epsilon_1, segment.sums,
                                            segment.parts, segment.stride, segment.terms, segment.begin, segment.end);
        });
        const FloatEnvironment environment;
        for_each_factored([&](const Part& part) {
            const std::size_t blocks_of_matrix = static_cast<std::size_t>(part.row_blocks * part.column_blocks);
            for (std::size_t matrix = 0; matrix < static_cast<std::size_t>(part.matrices); ++matrix) {
                const std::size_t segment = part.first_segment + matrix * segments_of_matrix(part);
                double total = 0.0;
                for (std::size_t k = segment; k < segment + static_cast<std::size_t>(part.row_blocks); ++k) {
                    total += segments_[k].total;
                }
                const std::size_t block = part.first_block + matrix * blocks_of_matrix;
                for (std::size_t k = block; k < block + blocks_of_matrix; ++k) {
                    blocks_[k].mean = total / static_cast<double>(part.rows);
                }
            }
        });
    }

    /// The factor on each variable's update, from the root mean squares of the variable and of the update.
    void set_ratios(std::span<kernel::Job> jobs, double rho) {
        const FloatEnvironment environment;
        for (const Part& part : parts_) {
            double weight = 0.0, update = 0.0;
            for (std::size_t k = part.first_block; k < part.first_block + part.blocks; ++k) {
                weight += squares_[k].weight;
                update += squares_[k].update;
            }
            kernel::Job& job = jobs[part.variable];
            const double size = static_cast<double>(job.size);
            const double root = std::sqrt(weight / size), excess = std::sqrt(update / size) / rule_.clip_threshold;
            // Written so that a NaN stays one.
            job.ratio = (root <= rule_.epsilon_2 ? rule_.epsilon_2 : root) * rho / (excess <= 1.0 ? 1.0 : excess);
        }
    }

    const Adafactor& rule_;  // the optimizer's, which may change between two steps
    std::vector<Part> parts_;
    std::vector<kernel::Block> blocks_;
    std::vector<std::size_t> block_variables_;
    std::vector<kernel::Squares> squares_;  // of each block
    std::vector<Segment> segments_;
    Arena sums_;
    PiecePlan block_plan_;
    PiecePlan segment_plan_;
};

}  // namespace

static std::vector<RuleSpec> specify_branches(const Adafactor&) {
    RuleSpec of_matrices{{}, 0.001, {}, {{"r", 0}, {"c", 0}, not_negative("velocity", 0)}};
    of_matrices.no_rows = "Adafactor's means go over the whole variable";
    of_matrices.no_float8 = "Adafactor keeps one number for each row and column, so that there is nothing to save";
    of_matrices.cost = elements_of;
    RuleSpec of_vectors = of_matrices;
    of_matrices.slots[0].form = Form::rows;
    of_matrices.slots[1].form = Form::columns;
    of_matrices.slots[2].form = Form::derived;
    of_vectors.slots[0].form = of_vectors.slots[1].form = Form::placeholder;
    return {of_matrices, of_vectors};
}

static std::size_t branch_of(const Adafactor&, const Tensor& variable, const std::string&) {
    return variable.rank() < 2 ? unfactored : factored;
}

static kernel::AdafactorScalars<double> scalars_of(const Adafactor& rule, const Now& now) {
    const double t = static_cast<double>(now.t);
    return {
        .rho = std::min(now.learning_rate, 1.0 / std::sqrt(t)),
        .b = 1.0 - std::pow(t, rule.beta_2_decay),
        .epsilon_1 = rule.epsilon_1,
    };
}

static std::unique_ptr<Procedure> make_procedure(const Adafactor& rule, std::span<const Variable> variables,
                                                 std::span<const kernel::Job> jobs) {
    return std::make_unique<AdafactorProcedure>(rule, variables, jobs);
}

template struct Definition<Adafactor>;

}  // namespace fusedopt
