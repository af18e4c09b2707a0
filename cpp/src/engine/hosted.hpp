// A hosted step's working memory and phases: check, measure, evaluate, commit. Only the last one writes to the host's
// memory.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include <fusedopt/hosted.hpp>

#include "engine/hosted_memory.hpp"
#include "engine/hosted_rules.hpp"
#include "engine/plan.hpp"
#include "engine/rows.hpp"
#include "kernel/kernel.hpp"

namespace fusedopt {

class HostedStep::State {
public:
    HostedResult run(std::span<const HostedGroup> groups, const HostedOptions& options);

private:
    /// What variables of one group and one count share, as kernel::Step knows it.
    struct Kind {
        std::size_t group;
        std::int64_t step;  // 0: only the average moves
        double product;     // the rule's number before the step, then after it
        DType product_dtype;
    };

    struct Product {
        double* place;
        std::size_t kind;
    };

    void check(std::span<const HostedGroup> groups, const HostedOptions& options);
    void check_group(const HostedGroup& group);
    void add(HostedVariable& variable, std::size_t group, std::size_t index);
    void set_gradient(kernel::Job& job, const Tensor& gradient);
    void set_rows(kernel::Job& job, const HostedVariable& variable, std::size_t group, std::size_t index);
    double sum_of_squares(std::size_t i) const;
    std::size_t kind_of(std::size_t group, const HostedVariable& variable);
    bool measure(const HostedOptions& options);
    void evaluate(std::span<const HostedGroup> groups, const HostedOptions& options);
    void commit();

    std::vector<HostedRule> rules_;
    std::vector<const RuleSpec*> specs_;  // of each group
    std::vector<kernel::Job> jobs_;
    std::vector<Kind> kinds_;
    std::vector<kernel::Step> steps_;        // of each kind
    std::vector<std::size_t> sorted_kinds_;  // those of the group at hand, by count and product
    std::vector<Product> products_;
    SweepPlan plan_;
    SweepPlan updated_;  // those with a dense gradient
    Rows rows_;
    std::size_t tiles_ = 0;
    std::size_t row_tiles_ = 0;          // of tables, which random rounding numbers apart from all others
    std::vector<std::int64_t> extents_;  // of gradients that are not contiguous in their variable's order
    std::vector<double> sums_of_squares_;
    MemoryOrder order_;
    HostedMemory memory_;
    std::optional<double> norm_;
};

}  // namespace fusedopt
