// A step on a host's state: it has the bits of an optimizer that keeps the same state itself.
#include "hosted.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "check.hpp"
#include "problem.hpp"
#include "torch_formulas.hpp"
#include "visit.hpp"

using fusedopt::HostedGroup;
using fusedopt::HostedOptions;
using fusedopt::HostedResult;
using fusedopt::HostedStep;
using fusedopt::HostedVariable;

namespace {

const fusedopt::Rule torch_adam = fusedopt::TorchAdam{.weight_decay = 0.01};

bool is_formula(const fusedopt::Rule& rule) {
    return !std::holds_alternative<fusedopt::Lamb>(rule) && !std::holds_alternative<fusedopt::Adafactor>(rule) &&
           !std::holds_alternative<fusedopt::Muon>(rule);
}

std::vector<std::string> slots_of(const fusedopt::Rule& rule) {
    return visit_rule([](const auto& r) { return reference::slot_names(r); }, rule);
}

Tensor state_of(const fusedopt::Optimizer& optimizer, const std::string& name, std::size_t i) {
    for (const auto& [found, tensor] : optimizer.variables()) {
        if (found == name + "/" + std::to_string(i)) return tensor;
    }
    throw std::runtime_error("no " + name);
}

/// Steps of an optimizer, and of a host that keeps the same state.
class Pair {
public:
    Pair(const Problem& problem, const fusedopt::Rule& rule, const fusedopt::Options& options)
        : problem_(problem), rule_(rule), options_(options), slots_(slots_of(rule)), optimizer_(rule, options) {
        for (const Array& weight : problem.weights) {
            weights_.push_back(weight.copy());
            kept_.emplace_back(weight);
        }
        optimizer_.build(tensors(weights_));
        for (std::size_t i = 0; i < kept_.size(); ++i) {
            for (std::size_t k = 0; k < slots_.size(); ++k) {
                kept_[i].slots[k].set(values_of(state_of(optimizer_, slots_[k], i)));
            }
        }
    }

    std::string run() {
        for (std::size_t t = 0; t < problem_.gradients.size(); ++t) {
            const std::string found = step(t);
            if (!found.empty()) return "step " + std::to_string(t) + ": " + found;
        }
        return "";
    }

private:
    std::string step(std::size_t t) {
        std::vector<Tensor> gradients(kept_.size());
        std::vector<HostedVariable> hosted;
        for (std::size_t i = 0; i < kept_.size(); ++i) {
            if (problem_.has_gradient(t, i)) gradients[i] = problem_.gradients[t][i].read_only();
            hosted.push_back(kept_[i].hosted(gradients[i], gradients[i] ? slots_.size() : 0));
            if (options_.use_ema) hosted.back().average = kept_[i].average.tensor();
            hosted.back().step = static_cast<std::int64_t>(t) + 1;
            hosted.back().product = product_;
        }
        optimizer_.apply(gradients);
        const HostedGroup group{.rule = rule_,
                                .learning_rate = options_.learning_rate->value(),
                                .weight_decay = options_.weight_decay,
                                .ema_momentum = t == 0 ? 0.0 : options_.ema_momentum,
                                .variables = hosted};
        const HostedResult result = hosted_step_.run({&group, 1}, {.clipnorm = options_.clipnorm});
        if (!result.stepped) return "no step";
        product_ = hosted[0].product;
        return difference();
    }

    std::string difference() const {
        for (std::size_t i = 0; i < kept_.size(); ++i) {
            const auto compare = [&](const std::string& what, const Array& found, const Tensor& expected) {
                const std::string text = ::difference(values_of(found.tensor()), values_of(expected));
                return text.empty() ? "" : "variable " + std::to_string(i) + ", " + what + ": " + text;
            };
            std::string text = compare("value", kept_[i].variable, weights_[i].tensor());
            for (std::size_t k = 0; k < slots_.size() && text.empty(); ++k) {
                text = compare(slots_[k], kept_[i].slots[k], state_of(optimizer_, slots_[k], i));
            }
            if (options_.use_ema && text.empty()) {
                text = compare("average", kept_[i].average, state_of(optimizer_, "average", i));
            }
            if (!text.empty()) return text;
        }
        return "";
    }

    const Problem& problem_;
    fusedopt::Rule rule_;
    fusedopt::Options options_;
    std::vector<std::string> slots_;
    std::vector<Array> weights_;
    fusedopt::Optimizer optimizer_;
    std::vector<Kept> kept_;
    HostedStep hosted_step_;
    double product_ = 1.0;
};

}  // namespace

TEST(a_hosted_step_has_the_bits_of_an_optimizer) {
    const Problem problem({0, 1, 1025}, 3);
    for (const auto& [name, rule] : rule_cases()) {
        if (!is_formula(rule)) continue;
        const std::string found = Pair(problem, rule, {.learning_rate = 0.05}).run();
        CHECK_EQUAL(found.empty() ? "" : name + ": " + found, "");
    }
}

TEST(a_hosted_step_has_the_same_bits_on_every_level_and_thread_count) {
    const Problem problem({15, 5600}, 2);  // enough for three threads
    on_every_level_and_thread_count([&](const std::string& where) {
        const std::string found = Pair(problem, torch_adam, {.learning_rate = 0.05, .clipnorm = 2.0}).run();
        CHECK_EQUAL(found.empty() ? "" : where + ": " + found, "");
    });
}

TEST(a_hosted_step_has_the_bits_of_an_optimizer_with_options) {
    const Problem problem({1, 1025}, 4);
    for (const auto& [name, rule] : rule_cases()) {
        if (!is_formula(rule)) continue;
        fusedopt::Options options{.learning_rate = 0.05, .clipnorm = 2.0, .use_ema = true, .ema_momentum = 0.9};
        const bool decays = visit_rule([](const auto& r) { return reference::decoupled_decay(r) != 0.0; }, rule);
        if (!decays && !std::holds_alternative<fusedopt::AdamW>(rule)) options.weight_decay = 0.02;
        const std::string found = Pair(problem, rule, options).run();
        CHECK_EQUAL(found.empty() ? "" : name + ": " + found, "");
    }
}

namespace {

std::vector<Kept> some_variables() {
    std::vector<Kept> kept;
    unsigned seed = 1;
    for (const DType dtype : all_dtypes) {
        for (const std::int64_t size : {3, 1500}) kept.emplace_back(Array(dtype, numbers(dtype, size, seed++)));
    }
    return kept;
}

std::vector<Array> some_gradients(const std::vector<Kept>& kept, unsigned seed) {
    std::vector<Array> gradients;
    for (const Kept& one : kept) {
        gradients.emplace_back(DType::float32, numbers(DType::float32, one.variable.tensor().size(), seed++));
    }
    return gradients;
}

std::vector<HostedVariable> hosted(const std::vector<Kept>& kept, const std::vector<Array>& gradients,
                                   std::size_t slot_count) {
    std::vector<HostedVariable> list;
    for (std::size_t i = 0; i < kept.size(); ++i) list.push_back(kept[i].hosted(gradients[i].tensor(), slot_count));
    return list;
}

}  // namespace

TEST(every_variable_has_a_count_of_its_own) {
    std::vector<Kept> together = some_variables(), alone = some_variables();
    const std::vector<Array> gradients = some_gradients(together, 50);
    for (const fusedopt::Rule& rule : {torch_adam, fusedopt::Rule(fusedopt::TorchNAdam{}),
                                       fusedopt::Rule(fusedopt::TorchSGD{.momentum = 0.9, .dampening = 0.5})}) {
        const std::size_t slots = slots_of(rule).size();
        HostedStep step;
        std::vector<double> products(together.size(), 1.0);
        for (std::int64_t t = 1; t <= 4; ++t) {
            std::vector<HostedVariable> list = hosted(together, gradients, slots);
            for (std::size_t i = 0; i < list.size(); ++i) {
                list[i].step = t + static_cast<std::int64_t>(i % 3) * 10;
                list[i].product = products[i] * (i % 3 == 1 ? 0.5 : 1.0);
                HostedVariable one = alone[i].hosted(gradients[i].tensor(), slots);
                one.step = list[i].step;
                one.product = list[i].product;
                HostedGroup group{.rule = rule, .variables = {&one, 1}};
                HostedStep().run({&group, 1});
                products[i] = one.product;
            }
            const HostedGroup group{.rule = rule, .variables = list};
            step.run({&group, 1});
            for (std::size_t i = 0; i < list.size(); ++i) CHECK_EQUAL(list[i].product, products[i]);
            CHECK(bytes_of(together) == bytes_of(alone));
        }
    }
}

TEST(groups_have_settings_of_their_own) {
    std::vector<Kept> together = some_variables(), alone = some_variables();
    const std::vector<Array> gradients = some_gradients(together, 50);
    const auto group_of = [&](std::size_t i, HostedVariable& variable) {
        return HostedGroup{.rule = fusedopt::TorchAdam{.beta_1 = 0.5 + 0.05 * static_cast<double>(i)},
                           .learning_rate = 0.01 * static_cast<double>(i),
                           .weight_decay = 0.1 * static_cast<double>(i),
                           .maximize = i % 2 == 0,
                           .variables = {&variable, 1}};
    };
    HostedStep step;
    for (std::int64_t t = 1; t <= 3; ++t) {
        std::vector<HostedVariable> list = hosted(together, gradients, 2);
        std::vector<HostedGroup> groups;
        for (std::size_t i = 0; i < list.size(); ++i) {
            list[i].step = t;
            groups.push_back(group_of(i, list[i]));
            HostedVariable one = alone[i].hosted(gradients[i].tensor(), 2);
            one.step = t;
            const HostedGroup group = group_of(i, one);
            HostedStep().run({&group, 1});
        }
        step.run(groups);
        CHECK(bytes_of(together) == bytes_of(alone));
    }
}

TEST(maximize_turns_the_gradient_before_weight_decay) {
    std::vector<Kept> up = some_variables(), down = some_variables();
    const std::vector<Array> gradients = some_gradients(up, 50);
    std::vector<Array> turned;
    for (const Array& gradient : gradients) {
        Values values = values_of(gradient.tensor());
        for (double& x : values) x = -x;
        turned.emplace_back(DType::float32, values);
    }
    std::vector<HostedVariable> of_up = hosted(up, gradients, 2), of_down = hosted(down, turned, 2);
    const HostedGroup maximized{.rule = torch_adam, .maximize = true, .variables = of_up};
    const HostedGroup minimized{.rule = torch_adam, .variables = of_down};
    HostedStep().run({&maximized, 1});
    HostedStep().run({&minimized, 1});
    CHECK(bytes_of(up) == bytes_of(down));
}

TEST(the_norm_is_that_of_all_unscaled_gradients) {
    std::vector<Kept> clipped = some_variables(), scaled = some_variables();
    const std::vector<Array> gradients = some_gradients(clipped, 50);
    double sum = 0.0;
    for (const Array& gradient : gradients) {
        for (const double x : values_of(gradient.tensor())) sum += x * x;
    }
    const double norm = 0.25 * std::sqrt(sum);
    HostedStep step;
    for (const double max_norm : {0.0, 0.5, 1e6, std::numeric_limits<double>::infinity()}) {
        std::vector<HostedVariable> of_clipped = hosted(clipped, gradients, 2),
                                    of_scaled = hosted(scaled, gradients, 2);
        const HostedGroup groups[] = {
            {.rule = torch_adam, .variables = std::span(of_clipped).first(3)},
            {.rule = torch_adam, .variables = std::span(of_clipped).subspan(3)},
        };
        const HostedResult result = step.run(groups, {.max_norm = max_norm, .unscale = 0.25});
        CHECK(std::fabs(*result.norm / norm - 1.0) < 1e-12);
        const double factor = std::min(1.0, max_norm / (*result.norm + 1e-6));
        const HostedGroup group{.rule = torch_adam, .variables = of_scaled};
        if (factor > 0.0) {
            HostedStep().run({&group, 1}, {.unscale = 0.25 * factor});
        } else {
            std::vector<Array> zeros;
            for (const Array& gradient : gradients) {
                Values values = values_of(gradient.tensor());
                for (double& x : values) x *= 0.0;
                zeros.emplace_back(DType::float32, values);
            }
            std::vector<HostedVariable> of_zeros = hosted(scaled, zeros, 2);
            const HostedGroup of_nothing{.rule = torch_adam, .variables = of_zeros};
            HostedStep().run({&of_nothing, 1});
        }
        CHECK(bytes_of(clipped) == bytes_of(scaled));
    }
    CHECK(!step.run({}, {}).norm);
    CHECK_EQUAL(step.run({}, {.max_norm = 1.0}).norm.value(), 0.0);
}

TEST(an_overflow_changes_nothing_if_it_is_to_be_skipped) {
    for (const double bad : {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::quiet_NaN()}) {
        std::vector<Kept> kept = some_variables();
        std::vector<Array> gradients = some_gradients(kept, 50);
        Values values = values_of(gradients[5].tensor());
        values[1234] = bad;
        gradients[5].set(values);
        std::vector<HostedVariable> list = hosted(kept, gradients, 2);
        const HostedGroup group{.rule = fusedopt::TorchNAdam{}, .variables = list};
        const std::vector<std::byte> before = bytes_of(kept);
        HostedStep step;
        CHECK(!step.run({&group, 1}, {.skip_nonfinite = true}).stepped);
        const HostedResult clipped = step.run({&group, 1}, {.max_norm = 1.0, .skip_nonfinite = true});
        CHECK(!clipped.stepped);
        CHECK(!std::isfinite(*clipped.norm));
        CHECK(bytes_of(kept) == before);
        CHECK_EQUAL(list[0].product, 1.0);
        CHECK(step.run({&group, 1}, {}).stepped);
        CHECK(!std::isfinite(values_of(kept[5].variable.tensor())[1234]));
        CHECK(std::isfinite(values_of(kept[5].variable.tensor())[1233]));
        CHECK(list[0].product < 1.0);
    }
}

TEST(a_variable_without_a_gradient_stands_still_but_its_average_moves) {
    std::vector<Kept> kept = some_variables();
    const std::vector<Kept> before = some_variables();
    std::vector<HostedVariable> list;
    for (Kept& one : kept) {
        one.average.set(Values(static_cast<std::size_t>(one.average.tensor().size()), 4.0));
        list.push_back(one.hosted({}, 2));
        list.back().average = one.average.tensor();
    }
    const HostedGroup group{.rule = torch_adam, .ema_momentum = 0.5, .variables = list};
    const HostedResult result = HostedStep().run({&group, 1}, {.max_norm = 1.0});
    CHECK(result.stepped);
    CHECK_EQUAL(*result.norm, 0.0);
    for (std::size_t i = 0; i < kept.size(); ++i) {
        const Values values = values_of(before[i].variable.tensor());
        CHECK_EQUAL(difference(values_of(kept[i].variable.tensor()), values), "");
        CHECK_EQUAL(values_of(kept[i].average.tensor())[1], 2.0 + 0.5 * values[1]);
    }
}

TEST(a_product_is_rounded_as_the_host_keeps_it) {
    double product = 1.0;
    float rounded = 1.0f;
    Kept in_double(Array(DType::float64, Values{1.0})), in_float(Array(DType::float64, Values{1.0}));
    const Array gradient(DType::float64, Values{1.0});
    HostedStep step;
    for (std::int64_t t = 1; t <= 5; ++t) {
        const double mu = 0.9 * (1.0 - 0.5 * std::pow(0.96, static_cast<double>(t) * 0.004));
        std::vector<HostedVariable> list = {in_double.hosted(gradient.tensor(), 2),
                                            in_float.hosted(gradient.tensor(), 2)};
        for (HostedVariable& variable : list) variable.step = t;
        list[0].product = product;
        list[1].product = static_cast<double>(rounded);
        list[1].product_dtype = DType::float32;
        const HostedGroup group{.rule = fusedopt::TorchNAdam{}, .variables = list};
        step.run({&group, 1});
        product *= mu;
        rounded *= static_cast<float>(mu);
        CHECK_EQUAL(list[0].product, product);
        CHECK_EQUAL(list[1].product, static_cast<double>(rounded));
    }
}

TEST(a_variable_without_a_master_copy_is_rounded_by_the_seed_alone) {
    const auto run = [](std::uint64_t seed) {
        std::vector<Kept> kept;
        for (const DType dtype : {DType::float16, DType::bfloat16}) {
            for (const std::int64_t size : {7, 20000}) kept.emplace_back(Array(dtype, numbers(dtype, size, 3)));
        }
        const std::vector<Array> gradients = some_gradients(kept, 50);
        std::vector<HostedVariable> list = hosted(kept, gradients, 2);
        for (HostedVariable& variable : list) variable.master = {};
        const HostedGroup group{.rule = torch_adam, .variables = list};
        HostedStep().run({&group, 1}, {.seed = seed});
        return bytes_of(kept);
    };
    const std::vector<std::byte> first = run(1);
    CHECK(run(2) != first);
    on_every_level_and_thread_count([&](const std::string&) { CHECK(run(1) == first); });
}

TEST(example_of_the_readme) {
    std::vector<float> weights(1000), gradients(1000), m(1000), v(1000);
    fusedopt::HostedVariable variable{.variable = fusedopt::Tensor(weights), .gradient = fusedopt::Tensor(gradients)};
    variable.slots = {fusedopt::Tensor(m), fusedopt::Tensor(v)};
    const fusedopt::HostedGroup group{.rule = fusedopt::TorchAdamW{}, .variables = {&variable, 1}};
    fusedopt::HostedStep step;
    gradients[3] = 0.5f;
    for (variable.step = 1; variable.step <= 100; ++variable.step) step.run({&group, 1}, {.max_norm = 1.0});
    CHECK_EQUAL(weights[2], 0.0f);
    CHECK(weights[3] < -0.05f);
}
