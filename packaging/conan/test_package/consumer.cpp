// A step through the packaged library. It fails if the weights are not those that the formula gives.
#include <fusedopt/fusedopt.hpp>

#include <cstdio>
#include <string>
#include <vector>

int main() {
    std::vector<float> weights(1 << 20, 1.0f);
    const std::vector<float> gradient(weights.size(), 0.5f);
    fusedopt::Optimizer optimizer(fusedopt::SGD{}, {.learning_rate = 0.25});
    optimizer.build({fusedopt::Tensor(weights)});
    optimizer.apply({fusedopt::Tensor(gradient)});
    for (const float weight : weights) {
        if (weight != 0.875f) return 1;
    }
    std::printf("fusedopt %s\n", std::string(fusedopt::version()).c_str());
    return 0;
}
