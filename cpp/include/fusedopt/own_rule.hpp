// A rule of one's own: a struct of the program's becomes a Rule like any other. Its
// loops are compiled in the program, with the program's flags.
#pragma once

#include <fusedopt/language.hpp>

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#include <memory>
#include <span>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>
#include <vector>

#include <fusedopt/fields.hpp>

namespace fusedopt {

/// A rule that a program brings along. It is made from a struct `R` with these members:
///
///     static constexpr const char* name           names it in messages
///     static constexpr double learning_rate       the default
///     static constexpr OwnRule::Slot slots[]      the state of each variable, three arrays at most; none: left out
///     static constexpr auto fields()              its hyperparameters, as Lion has them: double, std::int64_t or bool
///     static constexpr bool allows_float8 = true  if its slots may be coded in 8 bits; else left out
///     template <class T> struct Formula           nothing but numbers of type T, nine at most, and
///         void operator()(T& w, T g, T& slot...) const   what one element becomes; a T& for each slot
///     Formula<double> formula(const OwnRule::Now&) const     the numbers of an update, once for all elements
///
/// The formula must depend on nothing but its numbers and the element, and must not throw; `formula` may, and then
/// nothing is written. Weight decay, clipping, averages, accumulation and 16 bits are not its concern. Link the CMake
/// target fusedopt::own_rule, or compile with -O3 -ffp-contract=off -fno-math-errno -fno-trapping-math, so that the
/// loops become vectors and each operation rounds by itself. A rule made so is safe to use in several threads.
class OwnRule {
public:
    static constexpr std::size_t most_slots = 3;
    static constexpr std::size_t most_scalars = 9;

    /// What an update's numbers may depend on, besides the hyperparameters.
    struct Now {
        double learning_rate;
        std::int64_t t;  // the number of this update, from 1
    };

    /// An array of the variable's shape that goes with it.
    struct Slot {
        const char* name;              // it and the variable's name are what `state` and files call the array
        double initial = 0.0;          // each element at first
        bool copies_variable = false;  // begins as a copy of the variable instead
        bool is_signed = true;         // false: the formula never makes it negative, which codes of 8 bits gain from
    };

    /// A hyperparameter of one object.
    struct Number {
        const char* name;
        Domain domain;
        std::variant<bool*, double*, std::int64_t*> place;
    };

    using Scalars = std::array<double, most_scalars>;

    /// Updates n elements that follow each other: x = scale g and y = keep w, and then the formula of x and y. No array
    /// overlaps another. Each begins where any element may lie.
    template <class T>
    using Update = void (*)(const double* scalars, T scale, T keep, std::int64_t n, T* w, const T* g,
                            T* const* slots) noexcept;

    template <class R>
        requires requires(const R& rule, const Now& now) {
            R::name;
            rule.formula(now);
        }
    OwnRule(R rule) : held_(std::make_unique<Of<R>>(std::move(rule))) {}  // NOLINT: implicit on purpose

    OwnRule(const OwnRule& other) : held_(other.held_ ? other.held_->clone() : nullptr) {}
    OwnRule(OwnRule&&) noexcept = default;
    OwnRule& operator=(OwnRule other) noexcept {
        held_ = std::move(other.held_);
        return *this;
    }
    ~OwnRule() = default;

    /// The struct that it was made from, as it is now; null if it was made from another type.
    template <class R>
    const R* get_if() const {
        const auto* of = dynamic_cast<const Of<R>*>(held_.get());
        return of ? &of->rule : nullptr;
    }

    /// Made from the same type, with the same hyperparameters.
    friend bool operator==(const OwnRule& a, const OwnRule& b) { return a.held_->is_same(*b.held_); }

    // What an optimizer asks.
    const char* name() const { return held_->name(); }
    bool is_same_kind(const OwnRule& other) const { return held_->is_same_kind(*other.held_); }
    double learning_rate() const { return held_->learning_rate(); }
    std::span<const Slot> slots() const { return held_->slots(); }
    bool allows_float8() const { return held_->allows_float8(); }
    std::vector<Number> numbers() { return held_->numbers(); }
    Scalars scalars(const Now& now) const { return held_->scalars(now); }
    Update<float> update_float() const { return held_->update_float(); }
    Update<double> update_double() const { return held_->update_double(); }

private:
    struct Any {
        virtual ~Any() = default;
        virtual std::unique_ptr<Any> clone() const = 0;
        virtual bool is_same_kind(const Any&) const = 0;
        virtual bool is_same(const Any&) const = 0;
        virtual const char* name() const = 0;
        virtual double learning_rate() const = 0;
        virtual std::span<const Slot> slots() const = 0;
        virtual bool allows_float8() const = 0;
        virtual std::vector<Number> numbers() = 0;
        virtual Scalars scalars(const Now&) const = 0;
        virtual Update<float> update_float() const = 0;
        virtual Update<double> update_double() const = 0;
    };

    template <class R>
    struct Of;

    template <class R>
    static constexpr std::size_t slot_count_of() {
        if constexpr (requires { R::slots; }) {
            return std::size(R::slots);
        } else {
            return 0;
        }
    }

    template <class Formula, class T>
    static constexpr std::size_t scalar_count_of() {
        return std::is_empty_v<Formula> ? 0 : sizeof(Formula) / sizeof(T);
    }

    /// Whether so many T make it. An int would be narrowed to, and braces do not do that.
    template <class Formula, class T, std::size_t... k>
    static constexpr bool is_made_of(std::index_sequence<k...>) {
        return std::is_empty_v<Formula> || requires { Formula{(static_cast<void>(k), std::declval<T>())...}; };
    }

    template <class Formula, class T>
    static Formula narrowed(const double* scalars) {
        constexpr std::size_t count = scalar_count_of<Formula, T>();
        Formula formula{};
        if constexpr (count > 0) {
            std::array<T, count> values;
            for (std::size_t k = 0; k < count; ++k) values[k] = static_cast<T>(scalars[k]);
            std::memcpy(&formula, values.data(), sizeof(formula));
        }
        return formula;
    }

    /// A cache line of elements. No array overlaps another: without that promise nothing would become vectors.
    template <std::int64_t line, class Formula, class T, class... Slots>
    static void update_line(const Formula& formula, T scale, T keep, T* __restrict w, const T* __restrict g,
                            Slots* __restrict... slots) {
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC ivdep
#endif
        for (std::int64_t i = 0; i < line; ++i) {
            T y = w[i] * keep;
            formula(y, g[i] * scale, slots[i]...);
            w[i] = y;
        }
    }

    /// The rest that fills no whole line is updated in a line of its own, by the same loop. Another loop for it might
    /// be compiled to other bits, and the result would depend on where a variable is cut.
    template <class R, class T, std::size_t... k>
    static void update(const double* scalars, T scale, T keep, std::int64_t n, T* w, const T* g, T* const* slots,
                       std::index_sequence<k...>) {
        using Formula = typename R::template Formula<T>;
        constexpr std::int64_t line = 64 / static_cast<std::int64_t>(sizeof(T));
        constexpr std::int64_t ahead = 384 / static_cast<std::int64_t>(sizeof(T));
        const Formula formula = narrowed<Formula, T>(scalars);
        constexpr std::size_t arrays = 2 + sizeof...(k);
        std::array<T*, arrays> at{w, const_cast<T*>(g), slots[k]...};
        alignas(64) T rest[arrays][line] = {};
        for (std::int64_t left = n; left > 0; left -= line) {
            const auto bytes = static_cast<std::size_t>(left) * sizeof(T);
            const std::array<T*, arrays> whole = at;
            if (left < line) {
                for (std::size_t j = 0; j < arrays; ++j) {
                    std::memcpy(rest[j], whole[j], bytes);
                    at[j] = rest[j];
                }
            }
#if defined(__GNUC__)
            for (std::size_t j = 0; j < arrays; ++j) __builtin_prefetch(at[j] + ahead);
#endif
            update_line<line>(formula, scale, keep, at[0], static_cast<const T*>(at[1]), at[2 + k]...);
            for (std::size_t j = 0; j < arrays; ++j) {
                if (left < line && j != 1) std::memcpy(whole[j], rest[j], bytes);
                at[j] += line;
            }
        }
    }

    template <class R, class T>
    static void update_all(const double* scalars, T scale, T keep, std::int64_t n, T* w, const T* g,
                           T* const* slots) noexcept {
        update<R, T>(scalars, scale, keep, n, w, g, slots, std::make_index_sequence<slot_count_of<R>()>());
    }

    std::unique_ptr<Any> held_;
};

template <class R>
struct OwnRule::Of final : OwnRule::Any {
    using Wide = typename R::template Formula<double>;
    using Narrow = typename R::template Formula<float>;
    static constexpr std::size_t count = scalar_count_of<Wide, double>();

    static_assert(std::is_same_v<decltype(std::declval<const R&>().formula(std::declval<const Now&>())), Wide>,
                  "formula(now) gives a Formula<double>");
    static_assert(std::is_trivially_copyable_v<Wide> && std::is_trivially_copyable_v<Narrow> &&
                      count == scalar_count_of<Narrow, float>() &&
                      is_made_of<Wide, double>(std::make_index_sequence<count>()) &&
                      is_made_of<Narrow, float>(std::make_index_sequence<count>()),
                  "a Formula<T> consists of numbers of type T alone");
    static_assert(count <= most_scalars, "a Formula<T> has nine numbers at most");
    static_assert(slot_count_of<R>() <= most_slots, "an own rule has three slots at most");

    explicit Of(R rule_) : rule(std::move(rule_)) {}

    std::unique_ptr<Any> clone() const override { return std::make_unique<Of>(rule); }
    bool is_same_kind(const Any& other) const override { return dynamic_cast<const Of*>(&other) != nullptr; }
    bool is_same(const Any& other) const override {
        const auto* same = dynamic_cast<const Of*>(&other);
        if (!same) return false;
        if constexpr (requires { R::fields(); }) {
            const auto all = [&](const auto&... field) {
                return ((rule.*field.member == same->rule.*field.member) && ...);
            };
            return std::apply(all, R::fields());
        } else {
            return true;
        }
    }
    const char* name() const override { return R::name; }
    double learning_rate() const override { return R::learning_rate; }
    std::span<const Slot> slots() const override {
        if constexpr (slot_count_of<R>() > 0) {
            return R::slots;
        } else {
            return {};
        }
    }
    bool allows_float8() const override {
        if constexpr (requires { R::allows_float8; }) {
            return R::allows_float8;
        } else {
            return false;
        }
    }
    std::vector<Number> numbers() override {
        if constexpr (requires { R::fields(); }) {
            const auto list = [&](const auto&... field) {
                return std::vector<Number>{{field.name, field.domain, &(rule.*field.member)}...};
            };
            return std::apply(list, R::fields());
        } else {
            return {};
        }
    }
    Scalars scalars(const Now& now) const override {
        Scalars packed{};
        const Wide formula = rule.formula(now);
        std::memcpy(packed.data(), &formula, count * sizeof(double));
        return packed;
    }
    Update<float> update_float() const override { return &update_all<R, float>; }
    Update<double> update_double() const override { return &update_all<R, double>; }

    R rule;
};

}  // namespace fusedopt
