#include <cmath>

#include "float_environment.hpp"
#include "rule.hpp"

namespace fusedopt {

namespace {

double momentum_at(double beta_1, std::int64_t t) {
    return beta_1 * (1.0 - 0.5 * std::pow(0.96, static_cast<double>(t)));
}

}  // namespace

RuleSpec specify(const Nadam&) {
    RuleSpec spec{kernel::RuleId::Nadam, 0.001, {}, {{"momentum", 0}, {"velocity", 0}}};
    spec.has_product = true;
    return spec;
}

void compute_scalars(const Nadam& rule, const Moment& moment, double* scalars) {
    require_betas(moment);
    const double beta_1 = moment.beta_1, beta_2 = moment.beta_2;
    const double now = momentum_at(beta_1, moment.t);
    const double next = momentum_at(beta_1, moment.t + 1);
    const double product = *moment.product * now;
    scalars[0] = moment.learning_rate * next / (1.0 - product * next);
    scalars[1] = moment.learning_rate * (1.0 - now) / (1.0 - product);
    scalars[2] = 1.0 / (1.0 - std::pow(beta_2, static_cast<double>(moment.t)));
    scalars[3] = 1.0 - beta_1;
    scalars[4] = 1.0 - beta_2;
    scalars[5] = rule.epsilon;
    *moment.product = product;
}

double product_after(const Nadam& rule, std::int64_t step, std::int64_t updates) {
    return compute_in(Subnormals::flushed, rule.beta_1(step), [&](double beta_1) {
        double product = 1.0;
        for (std::int64_t t = 1; t <= updates && product != 0.0; ++t) product *= momentum_at(beta_1, t);
        return product;
    });
}

}  // namespace fusedopt
