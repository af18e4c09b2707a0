// A rule of one's own. Signum, the sign of a momentum (Bernstein et al. 2018), fits a line to points; weight decay,
// clipping and averages come with it.
#include <array>
#include <cmath>
#include <cstdio>
#include <tuple>

#include <fusedopt/fusedopt.hpp>

struct Signum {
    double momentum = 0.9;

    static constexpr const char* name = "Signum";
    static constexpr double learning_rate = 0.001;
    static constexpr fusedopt::OwnRule::Slot slots[] = {{.name = "momentum"}};
    static constexpr auto fields() {
        return std::tuple(fusedopt::Field("momentum", &Signum::momentum, fusedopt::domains::from_0_below_1));
    }

    // m <- momentum m + (1 - momentum) g;  w <- w - lr sign(m)
    template <class T>
    struct Formula {
        T lr, momentum, one_minus_momentum;

        void operator()(T& w, T g, T& m) const {
            m = momentum * m + one_minus_momentum * g;
            w = w - (m > 0 ? lr : m < 0 ? -lr : m);
        }
    };

    Formula<double> formula(const fusedopt::OwnRule::Now& now) const {
        return {now.learning_rate, momentum, 1.0 - momentum};
    }
};

int main() {
    std::array<float, 2> line{};  // slope and height
    std::array<float, 2> gradient;
    fusedopt::Optimizer optimizer(Signum{.momentum = 0.8},
                                  {.learning_rate = [](std::int64_t step) { return 0.1 / (1.0 + 0.1 * double(step)); },
                                   .global_clipnorm = 1.0,
                                   .use_ema = true,
                                   .ema_momentum = 0.9});
    optimizer.build({fusedopt::Tensor(line)});
    for (int step = 0; step < 400; ++step) {
        gradient = {};
        for (const float x : {-1.0f, 0.0f, 1.0f, 2.0f}) {
            const float error = line[0] * x + line[1] - (3.0f * x - 1.0f);
            gradient[0] += error * x;
            gradient[1] += error;
        }
        optimizer.apply({fusedopt::Tensor(gradient)});
    }
    optimizer.finalize_variable_values(std::array{fusedopt::Tensor(line)});
    std::printf("y = %.2f x + %.2f\n", line[0], line[1]);
    return std::fabs(line[0] - 3.0f) < 0.02f && std::fabs(line[1] + 1.0f) < 0.02f ? 0 : 1;
}
