// Hyperparameters by name: what a struct's members are called and which numbers they may be. Checks, messages and
// bindings read this, so that a hyperparameter is declared once.
#pragma once

#include <fusedopt/language.hpp>

#include <limits>

namespace fusedopt {

/// The numbers that a hyperparameter may be.
struct Domain {
    const char* description;  // as messages say it
    bool (*contains)(double);
    const char* advice = "";  // what to do instead
};

namespace domains {

inline constexpr double largest = std::numeric_limits<double>::max();

inline constexpr Domain any{"a number", [](double) { return true; }};
inline constexpr Domain finite{"a finite number", [](double x) { return x >= -largest && x <= largest; }};
inline constexpr Domain not_negative{"a finite number >= 0", [](double x) { return x >= 0.0 && x <= largest; }};
inline constexpr Domain not_positive{"a finite number <= 0", [](double x) { return x >= -largest && x <= 0.0; }};
inline constexpr Domain positive{"a finite number > 0", [](double x) { return x > 0.0 && x <= largest; }};

// Below float32's smallest normal number it would be flushed to zero, and 0 / 0 would follow.
inline constexpr Domain normal{"a finite number >= 1.18e-38, the smallest normal float32", [](double x) {
                                   return x >= static_cast<double>(std::numeric_limits<float>::min()) && x <= largest;
                               }};

inline constexpr Domain from_0_to_1{"a number in [0, 1]", [](double x) { return x >= 0.0 && x <= 1.0; }};
inline constexpr Domain from_0_below_1{"a number in [0, 1)", [](double x) { return x >= 0.0 && x < 1.0; }};
inline constexpr Domain above_0_to_1{"a number in (0, 1]", [](double x) { return x > 0.0 && x <= 1.0; }};
inline constexpr Domain above_0_below_1{"a number in (0, 1)", [](double x) { return x > 0.0 && x < 1.0; }};

inline constexpr Domain integer_from_0{"an integer >= 0", [](double x) { return x >= 0.0; }};
inline constexpr Domain integer_from_1{"an integer >= 1", [](double x) { return x >= 1.0; }};
inline constexpr Domain integer_from_2{"an integer >= 2", [](double x) { return x >= 2.0; },
                                       "leave it out to update in every call"};

}  // namespace domains

/// A hyperparameter of a struct. A struct that has some offers `fields()`, a tuple of these in the order of its
/// members.
template <class Struct, class Member>
struct Field {
    using Value = Member;

    const char* name;
    Value Struct::*member;
    Domain domain;  // of a number, or of the number that a function gives

    constexpr Field(const char* name_, Value Struct::*member_, Domain domain_ = domains::any)
        : name(name_), member(member_), domain(domain_) {}
};

}  // namespace fusedopt
