// Softmax regression on Fisher's irises. The parameters are plain arrays; fusedopt updates them in place.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <cstdio>

#include <fusedopt/fusedopt.hpp>

#include "iris_data.hpp"

namespace {

constexpr std::size_t inputs = 4, classes = 3;
constexpr std::size_t plants = 50, trained_plants = 35;  // of each species; the others are for testing

using Input = std::array<float, inputs>;
using Scores = std::array<float, classes>;

struct Model {
    std::array<float, classes * inputs> weights{};
    std::array<float, classes> bias{};
};

Input input_of(std::size_t species, std::size_t plant) {
    Input x;
    for (std::size_t k = 0; k < inputs; ++k) x[k] = static_cast<float>(irises[species][plant][k]) / 10.0f;
    return x;
}

Scores probabilities(const Model& model, const Input& x) {
    Scores p = model.bias;
    for (std::size_t c = 0; c < classes; ++c) {
        for (std::size_t k = 0; k < inputs; ++k) p[c] += model.weights[c * inputs + k] * x[k];
    }
    const float largest = *std::max_element(p.begin(), p.end());
    float sum = 0.0f;
    for (float& score : p) {
        score = std::exp(score - largest);
        sum += score;
    }
    for (float& score : p) score /= sum;
    return p;
}

/// The mean cross-entropy of the training plants, and its gradient.
double loss_and_gradient(const Model& model, Model& gradient) {
    constexpr float share = 1.0f / static_cast<float>(classes * trained_plants);
    gradient = {};
    double loss = 0.0;
    for (std::size_t species = 0; species < classes; ++species) {
        for (std::size_t plant = 0; plant < trained_plants; ++plant) {
            const Input x = input_of(species, plant);
            const Scores p = probabilities(model, x);
            loss -= std::log(p[species]) * share;
            for (std::size_t c = 0; c < classes; ++c) {
                const float error = (p[c] - (c == species ? 1.0f : 0.0f)) * share;
                for (std::size_t k = 0; k < inputs; ++k) gradient.weights[c * inputs + k] += error * x[k];
                gradient.bias[c] += error;
            }
        }
    }
    return loss;
}

}  // namespace

int main() {
    Model model, gradient;
    fusedopt::Optimizer optimizer(fusedopt::AdamW{.weight_decay = 1e-3},
                                  {.learning_rate = 0.05, .global_clipnorm = 1.0});
    optimizer.build({fusedopt::Tensor(model.weights), fusedopt::Tensor(model.bias)});

    for (int step = 0; step <= 500; ++step) {
        const double loss = loss_and_gradient(model, gradient);
        optimizer.apply({fusedopt::Tensor(gradient.weights), fusedopt::Tensor(gradient.bias)});
        if (step % 100 == 0) std::printf("step %3d: loss %.4f\n", step, loss);
    }

    int correct = 0;
    for (std::size_t species = 0; species < classes; ++species) {
        for (std::size_t plant = trained_plants; plant < plants; ++plant) {
            const Scores p = probabilities(model, input_of(species, plant));
            const auto best = static_cast<std::size_t>(std::max_element(p.begin(), p.end()) - p.begin());
            if (best == species) ++correct;
        }
    }
    constexpr int tested = classes * (plants - trained_plants);
    std::printf("%d of %d plants it has not seen are recognised\n", correct, tested);
    return correct >= 0.9 * tested ? 0 : 1;
}
