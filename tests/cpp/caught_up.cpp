// Rows that are caught up are what they would be if every step had touched them.
#include <cmath>
#include <map>
#include <optional>
#include <set>

#include "check.hpp"
#include "row_cases.hpp"
#include "visit.hpp"

namespace {

using fusedopt::Gradient;
using fusedopt::NamedTensor;
using fusedopt::Optimizer;
using fusedopt::Options;
using fusedopt::RowUpdates;
using fusedopt::Rule;

const char* name_of(const Rule& rule) {
    return visit_rule([](const auto& kind) { return kind.name; }, rule);
}

/// Whether a step without a gradient is made up for in all it does; otherwise only in what it does to slots.
bool is_exact(const Rule& rule) {
    const std::set<std::string> exact{"SGD", "RMSprop", "Adagrad", "Adadelta", "Lion"};
    return exact.contains(name_of(rule));
}

std::optional<std::string> refusal(const Rule& rule) {
    try {
        const Optimizer optimizer(rule, {.row_updates = RowUpdates::caught_up});
        return {};
    } catch (const std::invalid_argument& error) {
        return error.what();
    }
}

/// Two optimizers and the tables of each.
struct Twins {
    std::vector<Array> followed, touched;
    Optimizer by_rows, dense;

    Twins(const Rule& rule, Options options, const std::vector<Array>& tables, std::size_t excluded_from = 1000)
        : followed(copies(tables)), touched(copies(tables)), by_rows(rule, caught_up(options)), dense(rule, options) {
        const std::vector<Tensor> of_rows = tensors(followed), of_dense = tensors(touched);
        if (excluded_from < tables.size()) {
            by_rows.exclude_from_weight_decay(std::span(of_rows).subspan(excluded_from));
            dense.exclude_from_weight_decay(std::span(of_dense).subspan(excluded_from));
        }
        by_rows.build(of_rows, table_names());
        dense.build(of_dense, table_names());
    }

    static Options caught_up(Options options) {
        options.row_updates = RowUpdates::caught_up;
        return options;
    }

    /// False if no table has a gradient, so that there is no step.
    bool step(Draw& draw, DType gradient_dtype) {
        std::vector<TableGradient> drawn;
        std::vector<Array> whole;
        std::vector<Gradient> rows, all;
        bool has_any = false;
        for (const Array& table : followed) {
            const Tensor tensor = table.tensor();
            const auto shape = tensor.shape();
            drawn.push_back(draw_gradient(draw, gradient_dtype, Shape(shape.begin(), shape.end())));
        }
        for (std::size_t i = 0; i < drawn.size(); ++i) {
            rows.push_back(drawn[i].as_rows());
            all.emplace_back();
            if (drawn[i].kind == TableGradient::none) continue;
            has_any = true;
            const Tensor tensor = followed[i].tensor();
            const auto shape = tensor.shape();
            whole.push_back(drawn[i].as_dense(Shape(shape.begin(), shape.end())));
            all.back() = whole.back().tensor();
        }
        if (!has_any) return false;
        by_rows.apply(rows);
        dense.apply(all);
        return true;
    }

    /// Empty if variables and state are alike, or slots only.
    std::string difference(bool with_variables, double tolerance, double of_storage) const {
        const std::vector<NamedTensor> state = by_rows.state(), expected = dense.state();
        if (state.size() != expected.size()) return "another state";
        for (std::size_t k = 0; k < state.size(); ++k) {
            if (!with_variables && state[k].name.starts_with("master")) continue;
            if (state[k].tensor.dtype() == DType::int64) continue;
            const std::string text = distance(values_of(state[k].tensor), values_of(expected[k].tensor), tolerance);
            if (!text.empty()) return state[k].name + ": " + text;
        }
        for (std::size_t i = 0; with_variables && i < followed.size(); ++i) {
            const std::string text =
                distance(values_of(followed[i].tensor()), values_of(touched[i].tensor()), of_storage);
            if (!text.empty()) return "variable " + std::to_string(i) + ": " + text;
        }
        return "";
    }
};

double tolerance_of(DType dtype) {
    return dtype == DType::float64 ? 1e-9 : 5e-4;
}

double storage_tolerance_of(DType dtype) {
    return dtype == DType::bfloat16 ? 2e-2 : dtype == DType::float16 ? 3e-3 : tolerance_of(dtype);
}

std::string difference_after(Twins& twins, DType dtype, bool with_variables) {
    return twins.difference(with_variables, tolerance_of(dtype), storage_tolerance_of(dtype));
}

/// The rule, with another of the numbers that may change while it trains.
Rule changed(Rule rule, Draw& draw) {
    visit_rule(
        [&](auto& kind) {
            const double share = 0.5 + 0.25 * draw.number();
            if constexpr (requires { kind.rho; }) kind.rho = share;
            if constexpr (requires { kind.momentum; }) {
                if (kind.momentum > 0.0) kind.momentum = share;
            }
            if constexpr (requires { kind.beta_1; }) kind.beta_1 = share;
            if constexpr (requires { kind.beta_2; }) kind.beta_2 = share;
        },
        rule);
    return rule;
}

}  // namespace

TEST(every_rule_says_whether_rows_can_follow) {
    const std::map<std::string, std::string> refused{
        {"Lamb", "Lamb's ratio takes the norms"},
        {"Adafactor", "Adafactor's means go over"},
        {"Ftrl", "Ftrl computes a variable anew"},
        {"ScheduleFreeAdamW", "schedule-free AdamW moves every row"},
    };
    for (const auto& [name, rule] : rule_cases()) {
        const std::optional<std::string> message = refusal(rule);
        const bool is_pytorch = std::string(name_of(rule)).starts_with("Torch");
        const auto expected = refused.find(name_of(rule));
        CHECK_EQUAL(message.has_value(), is_pytorch || expected != refused.end());
        if (!message) continue;
        CHECK(message->starts_with("row_updates: expected \"lazy\", as "));
        CHECK(message->ends_with(", found \"caught_up\""));
        const std::string reason = is_pytorch ? "PyTorch" : expected->second;
        CHECK(message->find(reason) != std::string::npos);
    }
    CHECK_REFUSED(Optimizer(fusedopt::SGD{}, {.use_ema = true, .row_updates = RowUpdates::caught_up}), "use_ema");
}

TEST(rows_follow_what_dense_steps_do) {
    unsigned seed = 1;
    for (const auto& [name, rule] : rule_cases()) {
        if (refusal(rule)) continue;
        for (const DType dtype : all_dtypes) {
            Draw draw(seed++);
            Options options{.learning_rate = 0.01};
            if (!std::holds_alternative<fusedopt::AdamW>(rule) && !std::holds_alternative<fusedopt::Muon>(rule)) {
                options.weight_decay = 0.05;
            }
            Twins twins(rule, options, draw_tables(draw, dtype), 3);
            const DType gradient = seed % 2 ? DType::float32 : DType::float64;
            int steps = 0;
            while (steps < 150) {
                if (twins.step(draw, gradient)) ++steps;
                if (draw.once_in(3)) {
                    const double rate = draw.once_in(5) ? 0.0 : 0.01 * (1.0 + draw.number());
                    twins.by_rows.set_learning_rate(rate);
                    twins.dense.set_learning_rate(rate);
                }
                if (draw.once_in(10)) {
                    const Rule other = changed(twins.dense.rule(), draw);
                    twins.by_rows.set_rule(other);
                    twins.dense.set_rule(other);
                }
                if (draw.once_in(10) && options.weight_decay) {
                    Options other = twins.dense.options();
                    other.weight_decay = draw.once_in(3) ? 0.0 : 0.1 * (1.0 + draw.number());
                    twins.dense.set_options(other);
                    twins.by_rows.set_options(Twins::caught_up(other));
                }
                if (draw.once_in(20)) twins.by_rows.catch_up();
            }
            const std::string text = difference_after(twins, dtype, is_exact(rule));
            if (!text.empty())
                check::fail(__FILE__, __LINE__, name + " " + std::string(to_string(dtype)) + ", " + text);
        }
    }
}

TEST(decay_follows_for_every_rule_and_so_it_does_beyond_one) {
    for (const auto& [name, rule] : rule_cases()) {
        if (refusal(rule)) continue;
        // Gradients of zero: nothing but decay moves a variable, but for Yogi's momentum, which does not begin at 0.
        if (std::holds_alternative<fusedopt::Yogi>(rule)) continue;
        for (const double decay : {0.5, 1.0, 1.5, 2.5}) {
            Rule own = rule;
            Options options{.learning_rate = 1.0};
            if (auto* adamw = std::get_if<fusedopt::AdamW>(&own)) {
                adamw->weight_decay = decay;
            } else if (auto* muon = std::get_if<fusedopt::Muon>(&own)) {
                muon->adam_weight_decay = decay;
                muon->adam_lr_ratio = 1.0;
            } else {
                options.weight_decay = decay;
            }
            Draw draw(7);
            const Array table(DType::float32, {40, 3}, numbers(DType::float32, 120, 5));
            const Array followed = table.copy(), touched = table.copy();
            const std::vector<std::string> names{"embedding"};
            Optimizer by_rows(own, Twins::caught_up(options)), dense(own, options);
            by_rows.build(std::vector{followed.tensor()}, names);
            dense.build(std::vector{touched.tensor()}, names);
            const Array zero(DType::float32, Shape{2, 3}, Values()), all(DType::float32, Shape{40, 3}, Values());
            for (int t = 0; t < 30; ++t) {
                const std::vector<std::int64_t> indices{draw.below(20), draw.below(20)};
                by_rows.apply({fusedopt::RowGradient{zero.tensor(), Tensor(indices)}});
                dense.apply({all.tensor()});
            }
            by_rows.catch_up();
            const std::string text = distance(values_of(followed.tensor()), values_of(touched.tensor()), 1e-5);
            if (!text.empty()) check::fail(__FILE__, __LINE__, name + ", decay " + std::to_string(decay) + ": " + text);
        }
    }
}

TEST(a_row_left_out_for_long_stops_where_its_momentum_vanishes) {
    for (const DType dtype : {DType::float32, DType::float64}) {
        for (const double beta_2 : {0.0, 0.3, 0.9}) {
            const fusedopt::Lion rule{.beta_2 = beta_2};
            const Options options{.learning_rate = 0.01, .weight_decay = 0.1};
            const Array table(dtype, {1000, 3}, numbers(dtype, 3000, 5));
            const Array followed = table.copy(), touched = table.copy();
            Optimizer by_rows(rule, Twins::caught_up(options)), dense(rule, options);
            by_rows.build({followed.tensor()});
            dense.build({touched.tensor()});
            const std::vector<std::int64_t> first{5, 6, 7}, none;
            const Array values(dtype, {3, 3}, {1.0, -1e-3, 1e-30, 0.0, 1e3, -1e-20, 0.5, -0.25, 1e-10});
            const Array empty(dtype, Shape{0, 3}, Values()), zero(dtype, Shape{1000, 3}, Values());
            Values whole(3000, 0.0);
            const Values own = values_of(values.tensor());
            std::copy(own.begin(), own.end(), whole.begin() + 15);
            const Array all(dtype, {1000, 3}, whole);
            by_rows.apply({fusedopt::RowGradient{values.tensor(), Tensor(first)}});
            dense.apply({all.tensor()});
            // More steps than the history has room for.
            for (int t = 0; t < (dtype == DType::float64 ? 3500 : 1500); ++t) {
                by_rows.apply({fusedopt::RowGradient{empty.tensor(), Tensor(none)}});
                dense.apply({zero.tensor()});
            }
            by_rows.catch_up();
            // An element may stop one step sooner or later.
            const Values found = values_of(followed.tensor()), expected = values_of(touched.tensor());
            for (std::size_t k = 0; k < found.size(); ++k) CHECK(std::abs(found[k] - expected[k]) < 0.0101);
        }
    }
}
