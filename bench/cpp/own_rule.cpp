// AdamW as a rule of the program's own next to the library's, step by step in turns, so that a noisy machine is noisy
// for both. Prints the ratio of the two times for arrays of several sizes: the median of all turns.
#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <string_view>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "arrays.hpp"

namespace {

struct OwnAdam {
    double beta_1 = 0.9;
    double beta_2 = 0.999;
    double epsilon = 1e-7;

    static constexpr const char* name = "OwnAdam";
    static constexpr double learning_rate = 0.001;
    static constexpr fusedopt::OwnRule::Slot slots[] = {{.name = "momentum"}, {.name = "velocity", .is_signed = false}};

    template <class T>
    struct Formula {
        T alpha, one_minus_beta_1, one_minus_beta_2, epsilon;

        void operator()(T& w, T g, T& m, T& v) const {
            v = v + (g * g - v) * one_minus_beta_2;
            m = m + (g - m) * one_minus_beta_1;
            w = w - (alpha * m) / (std::sqrt(v) + epsilon);
        }
    };

    Formula<double> formula(const fusedopt::OwnRule::Now& now) const {
        const double t = static_cast<double>(now.t);
        return {now.learning_rate * std::sqrt(1.0 - std::pow(beta_2, t)) / (1.0 - std::pow(beta_1, t)), 1.0 - beta_1,
                1.0 - beta_2, epsilon};
    }
};

/// An optimizer with arrays of its own.
class Contestant {
public:
    Contestant(const fusedopt::Rule& rule, std::int64_t size)
        : arrays_(2, size), optimizer_(rule, {.weight_decay = 0.004}), gradients_{fusedopt::Tensor(arrays_[1])} {
        optimizer_.build({fusedopt::Tensor(arrays_[0])});
    }

    /// Seconds of so many steps.
    double time(int steps) {
        using Clock = std::chrono::steady_clock;
        const auto begin = Clock::now();
        for (int k = 0; k < steps; ++k) optimizer_.apply(gradients_);
        return std::chrono::duration<double>(Clock::now() - begin).count();
    }

    bool same_bits(Contestant& other) {
        return std::memcmp(arrays_[0].data(), other.arrays_[0].data(), arrays_[0].size_bytes()) == 0;
    }

private:
    Arrays arrays_;
    fusedopt::Optimizer optimizer_;
    std::array<fusedopt::Tensor, 1> gradients_;
};

double median(std::vector<double> values) {
    const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
    std::nth_element(values.begin(), middle, values.end());
    return *middle;
}

}  // namespace

int main(int count, char** words) {
    const bool is_quick = count > 1 && std::string_view(words[1]) == "--quick";
    fusedopt::read_environment();
    std::printf("level %s\n", std::string(fusedopt::level()).c_str());
    for (const std::int64_t size : {1 << 6, 1 << 10, 1 << 14, 1 << 18, 1 << 22, 1 << 25}) {
        if (is_quick && size > 1 << 14) break;
        Contestant own(OwnAdam{}, size), built_in(fusedopt::Adam{}, size);
        const int steps = static_cast<int>(std::max<std::int64_t>(1, (is_quick ? 1 << 12 : 1 << 20) / size));
        std::vector<double> own_times, built_in_times, ratios;
        for (int round = 0; round < (is_quick ? 3 : 101); ++round) {
            own_times.push_back(own.time(steps) / steps);
            built_in_times.push_back(built_in.time(steps) / steps);
            ratios.push_back(own_times.back() / built_in_times.back());
        }
        if (!own.same_bits(built_in)) {
            std::printf("expected the bits of the library's rule, found others\n");
            return 1;
        }
        std::printf("%9lld elements: own %10.2f us, the library's %10.2f us, ratio %.2f\n",
                    static_cast<long long>(size), 1e6 * median(own_times), 1e6 * median(built_in_times),
                    median(ratios));
    }
}
