// The reference's steps. Compiled once for all programs: every rule's formula is in here.
#include "reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <utility>
#include <variant>

#include "formulas.hpp"
#include "torch_formulas.hpp"
#include "visit.hpp"

namespace reference {
namespace {

/// Calls body with a number of the type that a variable is computed in.
template <class Body>
void compute(DType dtype, const Body& body) {
    if (dtype == DType::float64) {
        body(double());
    } else {
        body(float());
    }
}

/// A gradient's element times a factor: one rounding for what T does not hold exactly, and none for a factor of 1.
template <class T>
T scaled(DType dtype, double g, double factor) {
    constexpr double smallest = static_cast<double>(std::numeric_limits<T>::min());
    constexpr double largest = static_cast<double>(std::numeric_limits<T>::max());
    const double magnitude = std::fabs(factor);
    const bool fits = magnitude == 0 || !std::isfinite(factor) || (magnitude >= smallest && magnitude <= largest);
    const bool is_wider = dtype == DType::float64 && sizeof(T) == 4;
    return is_wider || !fits ? static_cast<T>(g * factor) : static_cast<T>(g) * static_cast<T>(factor);
}

template <class T>
Values clipped(DType dtype, Values gradient, double scale, std::optional<double> clipvalue) {
    const T limit = static_cast<T>(clipvalue.value_or(std::numeric_limits<double>::infinity()));
    for (double& x : gradient) {
        T g = scaled<T>(dtype, x, scale);
        if (g > limit) g = limit;
        if (g < -limit) g = -limit;
        x = static_cast<double>(g);
    }
    return gradient;
}

/// A gradient of rows with each row once, in ascending order: equal ones are summed in the order in which they occur.
Gradient summed(const Gradient& given, DType variable) {
    if (given.row_size == 0) return given;
    std::map<std::int64_t, std::vector<std::size_t>> places;
    for (std::size_t k = 0; k < given.rows.size(); ++k) places[given.rows[k]].push_back(k);
    const bool is_double = variable == DType::float64 || given.dtype == DType::float64;
    Gradient sum{given.dtype, Values(), {}, given.row_size};
    for (const auto& [row, equal] : places) {
        sum.rows.push_back(row);
        for (std::size_t i = 0; i < given.row_size; ++i) {
            const auto at = [&](std::size_t k) { return (*given.values)[k * given.row_size + i]; };
            double total = equal.size() == 1 ? at(equal[0]) : 0.0;
            for (std::size_t k = 0; k < equal.size() && equal.size() > 1; ++k) {
                total = is_double ? total + at(equal[k])
                                  : static_cast<double>(static_cast<float>(total) + static_cast<float>(at(equal[k])));
            }
            sum.values->push_back(total);
        }
    }
    return sum;
}

/// Calls copy(element of the whole, element of the rows) for each element of some rows.
template <class Copy>
void for_each_element(const Gradient& gradient, const Copy& copy) {
    for (std::size_t k = 0; k < gradient.rows.size() * gradient.row_size; ++k) {
        const auto row = static_cast<std::size_t>(gradient.rows[k / gradient.row_size]);
        copy(row * gradient.row_size + k % gradient.row_size, k);
    }
}

}  // namespace

Optimizer::Optimizer(fusedopt::Rule rule, fusedopt::Options options)
    : rule_(std::move(rule)), options_(std::move(options)), unscale_(1.0 / options_.loss_scale_factor.value_or(1.0)) {
    const auto ask = [&](const auto& r) {
        slot_names_ = slot_names(r);
        learning_rate_ = default_rate(r);
        weight_decay_ = options_.weight_decay.value_or(decoupled_decay(r));
        if constexpr (requires { r.rowwise; }) is_rowwise_ = r.rowwise;
        keeps_product_ = factor_of_product(r, 1.0).has_value();
    };
    visit_rule(ask, rule_);
    if (options_.learning_rate) learning_rate_ = *options_.learning_rate;
}

void Optimizer::add(DType dtype, const Values& values, std::size_t row_size) {
    const Values zeros(values.size());
    variables_.push_back({dtype, values, {zeros, zeros, zeros}, zeros, zeros, {}, row_size});
    Variable& variable = variables_.back();
    if (std::holds_alternative<fusedopt::ScheduleFreeAdamW>(rule_)) {
        variable.slots[0] = values;
    }
    if (std::holds_alternative<fusedopt::Adafactor>(rule_))
        variable.slots[1] = variable.slots[2] = {0.0};  // Keras lists an integer
    const auto start = [&](const auto& r) {
        for (std::size_t k = 0; k < slot_names_.size(); ++k) {
            if (initial_value(r, k) == 0.0) continue;
            compute(variable.dtype, [&]<class T>(T) {
                const T initial = static_cast<T>(initial_value(r, k));
                variable.slots[k].assign(values.size(), static_cast<double>(initial));
            });
        }
    };
    visit_rule(start, rule_);
}

void Optimizer::step(const std::vector<Gradient>& given) {
    std::vector<Gradient> gradients;
    for (std::size_t i = 0; i < given.size(); ++i) gradients.push_back(summed(given[i], variables_[i].dtype));
    const std::int64_t interval = options_.gradient_accumulation_steps.value_or(1);
    const std::int64_t iteration = calls_ / interval;
    const bool is_update = (calls_ + 1) % interval == 0;
    if (interval > 1) accumulate(gradients, is_update);
    if (is_update) {
        Now now{learning_rate_(calls_), static_cast<double>(iteration + 1)};
        product_ *= visit_rule([&](const auto& r) { return factor_of_product(r, now.t).value_or(1.0); }, rule_);
        now.product = product_;
        update(gradients, now, interval);
    }
    if (options_.use_ema) {
        const bool overwrite =
            options_.ema_overwrite_frequency && (iteration + 1) % *options_.ema_overwrite_frequency == 0;
        average(iteration == 0 ? 0.0 : options_.ema_momentum, overwrite);
    }
    ++calls_;
}

Values Optimizer::state(const std::string& name) const {
    if (name == "iteration") return {static_cast<double>(calls_)};
    if (name == "learning_rate") return {learning_rate_.value()};
    if (name == "product" || name == "mu_product") return {product_};
    const std::size_t slash = name.find('/');
    const std::string what = name.substr(0, slash);
    const Variable& variable = variables_[std::stoul(name.substr(name.find_last_not_of("0123456789") + 1))];
    if (what == "average") return variable.average;
    if (what == "gradient_accumulator") return variable.accumulator;
    const auto slot = std::find(slot_names_.begin(), slot_names_.end(), what);
    if (slot == slot_names_.end()) return {};
    const Values& values = variable.slots[static_cast<std::size_t>(slot - slot_names_.begin())];
    if (what == "momentum" || !has_rows(variable)) return values;
    Values of_rows;  // all elements of a row hold the same
    for (std::size_t k = 0; k < values.size(); k += variable.row_size) of_rows.push_back(values[k]);
    return of_rows;
}

std::size_t Optimizer::state_count() const {
    const std::size_t arrays = slot_names_.size() + options_.use_ema + options_.gradient_accumulation_steps.has_value();
    return 1 + learning_rate_.is_number() + keeps_product_ + arrays * variables_.size();
}

void Optimizer::accumulate(const std::vector<Gradient>& gradients, bool is_update) {
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        Variable& variable = variables_[i];
        if (const Gradient& g = gradients[i]; g.values) {
            variable.sum = variable.accumulator;
            compute(variable.dtype, [&]<class T>(T) {
                for (std::size_t k = 0; k < variable.sum.size(); ++k) {
                    variable.sum[k] =
                        static_cast<T>(variable.accumulator[k]) + scaled<T>(g.dtype, (*g.values)[k], unscale_);
                }
            });
            if (!is_update) variable.accumulator = variable.sum;
        }
        if (is_update) variable.accumulator.assign(variable.accumulator.size(), 0.0);
    }
}

void Optimizer::update(const std::vector<Gradient>& gradients, const Now& now, std::int64_t interval) {
    const double factor = interval > 1 ? 1.0 / static_cast<double>(interval) : unscale_;
    const auto measured = [&](std::size_t i) {
        const Gradient& g = gradients[i];
        if (g.row_size > 0) return sum_of_squares(*g.values, g.row_size);
        return sum_of_squares(interval > 1 ? variables_[i].sum : *g.values);
    };
    double clip = 1.0;
    if (options_.global_clipnorm) {
        double sum = 0.0;
        for (std::size_t i = 0; i < variables_.size(); ++i) {
            if (gradients[i].values) sum += measured(i);
        }
        const double norm = factor * std::sqrt(sum);
        global_norm_ = norm;
        clip = norm > *options_.global_clipnorm ? *options_.global_clipnorm / norm : 1.0;
        if (!std::isfinite(norm)) clip = std::numeric_limits<double>::quiet_NaN();
    }
    for (std::size_t i = 0; i < variables_.size(); ++i) {
        if (!gradients[i].values) continue;
        if (options_.clipnorm) {
            const double norm = factor * std::sqrt(measured(i));
            clip = norm <= *options_.clipnorm ? 1.0 : *options_.clipnorm / norm;
        }
        const double scale = factor * clip;
        Variable& variable = variables_[i];
        compute(variable.dtype, [&]<class T>(T) {
            const bool is_sum = interval > 1;
            const DType of_sum = sizeof(T) == 8 ? DType::float64 : DType::float32;
            const Values g = clipped<T>(is_sum ? of_sum : gradients[i].dtype,
                                        is_sum ? variable.sum : *gradients[i].values, scale, options_.clipvalue);
            if (gradients[i].row_size == 0) return update(variable, now, g);
            Variable rows{variable.dtype, Values(g.size()), {}, {}, {}, {}, variable.row_size};
            for (Values& slot : rows.slots) slot.resize(g.size());
            for_each_element(gradients[i], [&](std::size_t whole, std::size_t part) {
                rows.weight[part] = variable.weight[whole];
                for (std::size_t k = 0; k < 3; ++k) rows.slots[k][part] = variable.slots[k][whole];
            });
            update(rows, now, g);
            for_each_element(gradients[i], [&](std::size_t whole, std::size_t part) {
                variable.weight[whole] = rows.weight[part];
                for (std::size_t k = 0; k < 3; ++k) variable.slots[k][whole] = rows.slots[k][part];
            });
        });
    }
}

void Optimizer::update(Variable& variable, const Now& now, const Values& gradient) {
    compute(variable.dtype, [&]<class T>(T) {
        const T keep = static_cast<T>(1.0 - weight_decay_ * now.rate);
        for (double& w : variable.weight) w = static_cast<double>(static_cast<T>(w) * keep);
        if (!has_rows(variable)) {
            visit_rule([&](const auto& r) { apply_rule<T>(r, now, variable.weight, gradient, variable.slots); }, rule_);
            return;
        }
        for (std::size_t begin = 0; begin < gradient.size(); begin += variable.row_size) {
            const auto row_of = [&](const Values& values) {
                const auto first = values.begin() + static_cast<std::ptrdiff_t>(begin);
                return Values(first, first + static_cast<std::ptrdiff_t>(variable.row_size));
            };
            Values weight = row_of(variable.weight), g = row_of(gradient);
            Values slots[] = {row_of(variable.slots[0]), row_of(variable.slots[1]), row_of(variable.slots[2])};
            Now of_row = now;
            of_row.mean_square = sum_of_squares(g) / static_cast<double>(g.size());
            visit_rule([&](const auto& r) { apply_rule<T>(r, of_row, weight, g, slots); }, rule_);
            const auto to = [&](Values& values) { return values.begin() + static_cast<std::ptrdiff_t>(begin); };
            std::ranges::copy(weight, to(variable.weight));
            for (std::size_t k = 0; k < 3; ++k) std::ranges::copy(slots[k], to(variable.slots[k]));
        }
    });
}

void Optimizer::average(double momentum, bool overwrite) {
    for (Variable& variable : variables_) {
        compute(variable.dtype, [&]<class T>(T) {
            const T keep = static_cast<T>(momentum), take = static_cast<T>(1.0 - momentum);
            for (std::size_t k = 0; k < variable.weight.size(); ++k) {
                variable.average[k] =
                    keep * static_cast<T>(variable.average[k]) + take * static_cast<T>(variable.weight[k]);
            }
        });
        if (overwrite) variable.weight = variable.average;
    }
}

}  // namespace reference
