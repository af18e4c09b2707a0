// Hyperparameters that are set between two steps act as if the optimizer had been made with them, or change nothing.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <optional>
#include <set>
#include <thread>
#include <tuple>
#include <type_traits>
#include <variant>

#include "array.hpp"
#include "cases.hpp"
#include "check.hpp"
#include "steps.hpp"
#include "visit.hpp"

namespace {

using fusedopt::BuiltError;
using fusedopt::Hyperparameter;
using fusedopt::Optimizer;
using fusedopt::Options;
using fusedopt::Rule;

// Another value of each kind of field, far enough from the present one to be seen in a few steps.

bool other(bool present, const fusedopt::Domain&) {
    return !present;
}
double other(double present, const fusedopt::Domain& domain) {
    for (const double value : {3.0, 0.5, 0.01, -0.7}) {
        if (domain.contains(value) && value != present) return value;
    }
    return present;
}
DType other(DType present, const fusedopt::Domain&) {
    return present == DType::float32 ? DType::bfloat16 : DType::float32;
}
std::int64_t other(std::int64_t present, const fusedopt::Domain&) {
    return present + 1;
}
Hyperparameter other(const Hyperparameter& present, const fusedopt::Domain& domain) {
    return other(present.value(), domain);
}
template <class Value>
std::optional<Value> other(const std::optional<Value>& present, const fusedopt::Domain& domain) {
    if (present) return std::nullopt;
    return other(Value(2), domain);
}
fusedopt::RowUpdates other(fusedopt::RowUpdates present, const fusedopt::Domain&) {
    using enum fusedopt::RowUpdates;
    return present == lazy ? caught_up : lazy;
}
fusedopt::SlotDType other(fusedopt::SlotDType present, const fusedopt::Domain&) {
    using enum fusedopt::SlotDType;
    return present == float32 ? bfloat16 : float32;
}
std::map<std::string, fusedopt::SlotDType> other(const std::map<std::string, fusedopt::SlotDType>& present,
                                                 const fusedopt::Domain&) {
    std::map<std::string, fusedopt::SlotDType> changed = present;
    changed["0"] = fusedopt::SlotDType::bfloat16;
    return changed;
}
fusedopt::Muon::MatrixProduct other(const fusedopt::Muon::MatrixProduct&, const fusedopt::Domain&) {
    return [](const Tensor& a, const Tensor& b, const Tensor& product) {
        multiply(a, b, product);
        auto* first = static_cast<std::byte*>(product.data());
        write(product.dtype(), read(product.dtype(), first) * 0.5, first);
    };
}
fusedopt::Muon::Exclusion other(const fusedopt::Muon::Exclusion&, const fusedopt::Domain&) {
    return [](const std::string&) { return true; };
}

/// Calls visit(name, changed) with a copy of a struct for each of its fields, in which only that one is another.
template <class Struct, class Visit>
void for_each_change(const Struct& present, const Visit& visit) {
    const auto visit_field = [&](const auto& field) {
        Struct changed = present;
        changed.*field.member = other(present.*field.member, field.domain);
        visit(std::string(field.name), changed);
    };
    std::apply([&](const auto&... field) { (visit_field(field), ...); }, Struct::fields());
}

void check_against_new(const std::string& where, Optimizer& optimizer, const std::vector<Array>& variables,
                       const Rule& rule, const Options& options) {
    const std::vector<Array> own = copies(variables);
    Optimizer expected(rule, options);
    expected.build(tensors(own));
    load(expected, optimizer);
    check_equal_steps(where, optimizer, variables, expected, own);
}

struct Built {
    std::vector<Array> variables = new_variables();
    Optimizer optimizer;

    Built(const Rule& rule, const Options& options) : optimizer(rule, options) {
        optimizer.build(tensors(variables));
        for (unsigned k = 0; k < 3; ++k) step(optimizer, variables, 10 * k);
    }
};

/// What a few steps more make of the variables.
std::vector<Values> after_steps(Built& built) {
    for (unsigned k = 0; k < 3; ++k) step(built.optimizer, built.variables, 1000 * k);
    std::vector<Values> values;
    for (const Array& variable : built.variables) values.push_back(values_of(variable.tensor()));
    return values;
}

/// Changes one thing of a built optimizer and takes it back: "refused" or "built" if it was refused, else whether the
/// next steps were others for it.
template <class Set, class SetBack>
std::string outcome(const std::string& where, const Rule& rule, const Options& options, const Rule& new_rule,
                    const Options& new_options, const Set& set, const SetBack& set_back) {
    Built changed(rule, options), control(rule, options);
    const auto names = names_of(changed.optimizer);
    const auto before = state_of(changed.optimizer, changed.variables);
    try {
        set(changed.optimizer);
    } catch (const std::invalid_argument& error) {
        CHECK(state_of(changed.optimizer, changed.variables) == before);
        CHECK_EQUAL(after_steps(changed) == after_steps(control) ? "" : where, "");
        return dynamic_cast<const BuiltError*>(&error) ? "built" : "refused";
    }
    const auto lists_rate = [](const Options& o) { return !o.learning_rate || o.learning_rate->is_number(); };
    if (options.skip_nonfinite == new_options.skip_nonfinite && lists_rate(options) == lists_rate(new_options)) {
        CHECK(names_of(changed.optimizer) == names);
    }
    for (const auto& [name, bytes] : state_of(changed.optimizer, changed.variables)) {
        const auto same = before.find(name);
        CHECK(same == before.end() || same->second == bytes || name == "learning_rate");
    }
    check_against_new(where, changed.optimizer, changed.variables, new_rule, new_options);
    set_back(changed.optimizer);
    check_against_new(where + ", back", changed.optimizer, changed.variables, rule, options);
    Built again(rule, options);
    set(again.optimizer);
    return after_steps(again) == after_steps(control) ? "the same" : "acts";
}

}  // namespace

// A struct of so many members can be taken apart into so many names, and no other number.
TEST(every_member_has_a_field) {
    const auto check = [](const auto& made) {
        constexpr std::size_t count = std::tuple_size_v<decltype(made.fields())>;
        if constexpr (count == 2) {
            [[maybe_unused]] const auto& [a, b] = made;
        } else if constexpr (count == 3) {
            [[maybe_unused]] const auto& [a, b, c] = made;
        } else if constexpr (count == 4) {
            [[maybe_unused]] const auto& [a, b, c, d] = made;
        } else if constexpr (count == 5) {
            [[maybe_unused]] const auto& [a, b, c, d, e] = made;
        } else if constexpr (count == 6) {
            [[maybe_unused]] const auto& [a, b, c, d, e, f] = made;
        } else if constexpr (count == 12) {
            [[maybe_unused]] const auto& [a, b, c, d, e, f, g, h, i, j, k, l] = made;
        } else {
            [[maybe_unused]] const auto& [a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p] = made;
        }
    };
    for (const RuleCase& rule_case : rule_cases()) visit_rule(check, rule_case.rule);
    check(Options());
}

TEST(every_hyperparameter_acts_from_the_next_step_on_or_is_refused) {
    std::set<std::string> built, unseen, acting;
    std::set<std::string> needing_state = {"Muon.excludes"};
    for (const std::string numbers : {"", "Torch"}) {
        for (const char* one :
             {"SGD.momentum", "RMSprop.momentum", "RMSprop.centered", "Adam.amsgrad", "AdamW.amsgrad"}) {
            needing_state.insert(numbers + one);
        }
    }
    for (const std::string one : {"RMSprop", "Adam", "AdamW", "Adagrad", "Nadam", "Yogi"}) {
        needing_state.insert(one + ".rowwise");
    }
    for (const RuleCase& rule_case : rule_cases()) {
        const auto check = [&](const auto& rule) {
            for_each_change(rule, [&](const std::string& field, const auto& changed) {
                const std::string who = std::string(rule.name) + "." + field;
                if (field == "initial_accumulator_value") needing_state.insert(who);
                const std::string result = outcome(
                    rule_case.name + ", " + field, rule, {}, changed, {}, [&](Optimizer& o) { o.set_rule(changed); },
                    [&](Optimizer& o) { o.set_rule(rule); });
                (result == "built" ? built : result == "acts" ? acting : unseen).insert(who);
            });
        };
        visit_rule(check, rule_case.rule);
    }
    CHECK(built == needing_state);
    acting.merge(built);  // the centered RMSprop refuses rowwise at any time
    for (const std::string& who : unseen) CHECK_EQUAL(acting.contains(who) ? "" : who + " does not act", "");
}

TEST(every_option_acts_from_the_next_step_on_or_is_refused) {
    std::set<std::string> built, unseen, acting, refused;
    const std::vector<RuleCase> some_rules = {
        {"Adam", fusedopt::Adam{}},
        {"Lamb", fusedopt::Lamb{}},
        {"AdamW", fusedopt::AdamW{}},
        {"Adafactor", fusedopt::Adafactor{}},
        {"Muon", fusedopt::Muon{.matrix_product = multiply}},
    };
    for (const RuleCase& rule_case : some_rules) {
        for (const OptionCase& option_case : option_cases()) {
            Options options = option_case.options;
            if (!options.learning_rate) options.learning_rate = 0.02;
            for_each_change(options, [&](const std::string& field, Options changed) {
                if (field == "learning_rate") changed.learning_rate = 0.3;
                if (field == "clipnorm") changed.clipvalue = changed.global_clipnorm = std::nullopt;
                if (field == "clipvalue") {
                    changed.clipnorm = changed.global_clipnorm = std::nullopt;
                    if (changed.clipvalue) changed.clipvalue = 0.5;
                }
                if (field == "global_clipnorm") changed.clipnorm = changed.clipvalue = std::nullopt;
                const std::string result = outcome(
                    rule_case.name + ", " + option_case.name + ", " + field, rule_case.rule, options, rule_case.rule,
                    changed, [&](Optimizer& o) { o.set_options(changed); },
                    [&](Optimizer& o) { o.set_options(options); });
                (result == "built"     ? built
                 : result == "acts"    ? acting
                 : result == "refused" ? refused
                                       : unseen)
                    .insert(result == "refused" ? rule_case.name + ", " + field : field);
            });
        }
    }
    CHECK(built == (std::set<std::string>{"use_ema", "gradient_accumulation_steps", "row_updates", "slot_dtype",
                                          "slot_dtypes", "master"}));
    std::set<std::string> expected{"AdamW, weight_decay", "Muon, weight_decay"};
    // Not every rule can make rows catch up, and none with averages.
    for (const RuleCase& rule_case : some_rules) expected.insert(rule_case.name + ", row_updates");
    CHECK(refused == expected);
    for (const char* name : {"skip_nonfinite", "seed"}) unseen.erase(name);  // have tests of their own
    for (const std::string& name : unseen) CHECK_EQUAL(acting.contains(name) ? "" : name + " does not act", "");
}

TEST(before_build_everything_can_be_set_but_another_rule) {
    for (const RuleCase& first : rule_cases()) {
        for (const RuleCase& second : rule_cases()) {
            if (first.rule.index() != second.rule.index()) continue;
            const std::vector<Array> variables = new_variables(), own = new_variables();
            Optimizer optimizer(first.rule), expected(second.rule);
            optimizer.set_rule(second.rule);
            optimizer.build(tensors(variables));
            expected.build(tensors(own));
            CHECK(names_of(optimizer) == names_of(expected));
            check_equal_steps(first.name + " to " + second.name, optimizer, variables, expected, own);
        }
    }
    for (const OptionCase& first : option_cases()) {
        for (const OptionCase& second : option_cases()) {
            const std::vector<Array> variables = new_variables(), own = new_variables();
            Options options = second.options;
            if (!options.learning_rate) options.learning_rate = 0.5;
            Optimizer optimizer(fusedopt::Adam{}, first.options), expected(fusedopt::Adam{}, options);
            optimizer.set_options(options);
            optimizer.build(tensors(variables));
            expected.build(tensors(own));
            CHECK(names_of(optimizer) == names_of(expected));
            check_equal_steps(first.name + " to " + second.name, optimizer, variables, expected, own);
        }
    }
    Optimizer optimizer(fusedopt::SGD{});
    CHECK_REFUSED(optimizer.set_rule(fusedopt::Adam{}), "expected hyperparameters of SGD, found those of Adam");
    CHECK(std::holds_alternative<fusedopt::SGD>(optimizer.rule()));
}

TEST(the_refusal_names_the_hyperparameter) {
    const auto refuse = [](const Rule& rule, const Rule& wanted, const char* name) {
        Built built(rule, {});
        try {
            built.optimizer.set_rule(wanted);
            CHECK_EQUAL("nothing thrown", name);
        } catch (const BuiltError& error) {
            CHECK_EQUAL(std::string(error.what()).substr(0, std::string(name).size()), name);
        }
    };
    using namespace fusedopt;
    refuse(Adam{}, Adam{.beta_1 = 0.5, .epsilon = 1e-3, .amsgrad = true}, "amsgrad: expected no change after build");
    refuse(RMSprop{}, RMSprop{.rho = 0.5, .momentum = 0.5, .epsilon = 1e-3}, "momentum: ");
    refuse(RMSprop{.momentum = 0.5}, RMSprop{.rho = 0.5, .momentum = 0.2, .centered = true}, "centered: ");
    refuse(RMSprop{.centered = true}, RMSprop{.rowwise = true}, "rowwise: ");
    refuse(Adam{}, Adam{.beta_1 = 0.5, .rowwise = true}, "rowwise: ");
    refuse(Yogi{.rowwise = true}, Yogi{.epsilon = 0.5}, "rowwise: ");
    refuse(Adagrad{}, Adagrad{.initial_accumulator_value = 0.5, .epsilon = 1e-3}, "initial_accumulator_value: ");
    refuse(Muon{.matrix_product = multiply},
           Muon{.matrix_product = multiply, .epsilon = 1e-3, .excludes = [](const std::string&) { return true; }},
           "excludes: ");
}

TEST(bad_values_change_nothing) {
    Built built(fusedopt::Adam{}, {.learning_rate = 0.25, .clipnorm = 1.0});
    const auto before = state_of(built.optimizer, built.variables);
    CHECK_REFUSED(built.optimizer.set_rule(fusedopt::Adam{.beta_1 = 0.5, .epsilon = 0.0}), "epsilon");
    CHECK_REFUSED(built.optimizer.set_options({.learning_rate = 1.0, .clipnorm = 2.0, .clipvalue = 1.0}),
                  "at most one");
    CHECK_REFUSED(built.optimizer.set_options({.learning_rate = -1.0}), "learning_rate");
    CHECK_REFUSED(built.optimizer.set_options({.learning_rate = 1.0, .use_ema = true}), "use_ema: expected no change");
    CHECK(state_of(built.optimizer, built.variables) == before);
    CHECK_EQUAL(std::get<fusedopt::Adam>(built.optimizer.rule()).beta_1.value(), 0.9);
    CHECK_EQUAL(built.optimizer.options().clipnorm.value(), 1.0);
    CHECK_EQUAL(built.optimizer.options().learning_rate->value(), 0.25);
}

TEST(without_a_learning_rate_the_present_one_stays) {
    Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 0.25});
    optimizer.set_learning_rate(0.5);
    optimizer.set_options({.clipvalue = 1.0});
    CHECK_EQUAL(optimizer.learning_rate(), 0.5);
    CHECK_EQUAL(optimizer.options().learning_rate->value(), 0.5);
    optimizer.set_learning_rate([](std::int64_t) { return 0.125; });
    optimizer.set_options({});
    CHECK_EQUAL(optimizer.learning_rate(), 0.125);
    optimizer.set_options({.learning_rate = 2.0});
    CHECK_EQUAL(optimizer.learning_rate(), 2.0);
}

TEST(an_exclusion_that_moves_no_matrix_is_taken) {
    Built built(fusedopt::Muon{.matrix_product = multiply}, {});
    built.optimizer.set_rule(fusedopt::Muon{
        .matrix_product = multiply, .excludes = [](const std::string& name) { return name == "2"; }});  // a vector
    built.optimizer.set_rule(fusedopt::Muon{.matrix_product = multiply, .ns_steps = 4});
}

TEST(functions_take_the_place_of_numbers_and_are_given_up) {
    Built built(fusedopt::Adam{}, {});
    auto token = std::make_shared<int>(0);
    const std::weak_ptr<int> watched = token;
    built.optimizer.set_rule(fusedopt::Adam{.beta_1 = [token](std::int64_t) { return 0.5; }});
    built.optimizer.set_options({.learning_rate = [token](std::int64_t) { return 0.125; }});
    token.reset();
    check_against_new("function", built.optimizer, built.variables, fusedopt::Adam{.beta_1 = 0.5},
                      {.learning_rate = [](std::int64_t) { return 0.125; }});
    built.optimizer.set_rule(fusedopt::Adam{.beta_1 = [](std::int64_t) { return 1.5; }});
    CHECK_REFUSED(step(built.optimizer, built.variables, 1), "beta_1");
    built.optimizer.set_rule(fusedopt::Adam{});
    CHECK(!watched.expired());
    built.optimizer.set_learning_rate(0.5);
    CHECK(watched.expired());
}

TEST(nonfinite_gradients_are_skipped_while_it_is_on) {
    const Array variable(DType::float32, Values{1.0}), bad(DType::float32, Values{std::nan("")});
    Optimizer optimizer(fusedopt::SGD{});
    optimizer.build({variable.tensor()});
    const auto lists_count = [&] { return optimizer.state().back().name == "skipped_steps"; };
    CHECK(!lists_count());
    optimizer.set_options({.skip_nonfinite = true});
    CHECK(!optimizer.apply({bad.tensor()}));
    CHECK_EQUAL(optimizer.skipped_steps(), 1);
    CHECK(lists_count());
    optimizer.set_options({});
    CHECK(!lists_count());
    CHECK_EQUAL(optimizer.skipped_steps(), 1);
    CHECK(optimizer.apply({bad.tensor()}));
    CHECK(std::isnan(values_of(variable.tensor())[0]));
}

TEST(a_function_that_chooses_branches_may_set_the_rule) {
    const std::vector<Array> variables = new_variables();
    std::optional<Optimizer> optimizer;
    const auto calm = [](const std::string&) { return false; };
    optimizer.emplace(fusedopt::Muon{.matrix_product = multiply, .excludes = [&](const std::string& name) {
                                         optimizer->set_rule(
                                             fusedopt::Muon{.matrix_product = multiply, .excludes = calm});
                                         return name.empty();
                                     }});
    optimizer->build(tensors(variables));
    step(*optimizer, variables, 1);
}

TEST(a_step_on_another_thread_sees_all_of_a_change_or_nothing) {
    constexpr int steps = 3000;
    const Array variable(DType::float64, Values{0.0}), gradient(DType::float64, Values{1.0});
    Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 1.0});
    optimizer.build({variable.tensor()});
    std::atomic<bool> is_done = false;
    std::thread setter([&] {
        for (double scale = 1.0; !is_done; scale = 1025.0 - scale) {
            optimizer.set_options({.learning_rate = scale, .loss_scale_factor = scale});
            optimizer.set_rule(fusedopt::SGD{.momentum = 0.0, .nesterov = scale > 1.0});
        }
    });
    for (int k = 0; k < steps; ++k) optimizer.apply({gradient.tensor()});
    is_done = true;
    setter.join();
    CHECK_EQUAL(values_of(variable.tensor())[0], -steps);
}
