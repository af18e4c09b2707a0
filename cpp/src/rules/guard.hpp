// What one slot of a rule says about another. It holds in exact arithmetic, and codes of 8 bits are made so that it
// holds for them, too. However much they lose, an update then stays as small as exact slots would leave it.
#pragma once

#include <cmath>

#include "rules/rule.hpp"

namespace fusedopt {

/// 1 + q + ... + q^(t - 1)
inline double geometric_sum(double q, double t) {
    return q == 1.0 ? t : std::expm1(t * std::log(q)) / (q - 1.0);
}

/// Infinite sums, and those of betas of zero, bound nothing.
inline kernel::Guard guard(int power, double inverse) {
    const double floor = 1.0 / inverse;
    return floor > 0.0 ? kernel::Guard{0, 1, power, floor} : kernel::Guard{};
}

/// v >= k m^2 with 1/k = (1 - beta_1)^2 / (1 - beta_2) sum of (beta_1^2 / beta_2)^j, by Cauchy-Schwarz. The sum is over
/// all j if there is one: with those before step t alone, exact slots are at the bound in the first steps, and codes
/// would be raised for nothing.
inline kernel::Guard adam_guard(const Now& now) {
    const double one_minus_beta_1 = 1.0 - now.beta_1;
    const double q = now.beta_1 * now.beta_1 / now.beta_2;
    const double sum = q < 1.0 ? 1.0 / (1.0 - q) : geometric_sum(q, static_cast<double>(now.t));
    return guard(2, one_minus_beta_1 * one_minus_beta_1 / (1.0 - now.beta_2) * sum);
}

/// u >= k |m| with 1/k = (1 - beta_1) sum of (beta_1 / beta_2)^j for j < t. The sum over all j would bound little, as
/// the first steps multiply m by most. Exact slots are often at the bound, so codes are held to half of it.
inline kernel::Guard adamax_guard(const Now& now) {
    return guard(1, 2.0 * (1.0 - now.beta_1) * geometric_sum(now.beta_1 / now.beta_2, static_cast<double>(now.t)));
}

}  // namespace fusedopt
