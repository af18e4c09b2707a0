// Two optimizers on two threads update the same array, as nobody may. The thread sanitizer must end this program.
#include <thread>
#include <vector>

#include <fusedopt/fusedopt.hpp>

int main() {
    std::vector<float> weights(100000), gradients(100000, 1.0f);
    const auto steps = [&] {
        fusedopt::Optimizer optimizer(fusedopt::Adam{});
        optimizer.build({fusedopt::Tensor(weights)});
        for (int k = 0; k < 3; ++k) optimizer.apply({fusedopt::Tensor(gradients)});
    };
    std::thread one(steps), other(steps);
    one.join();
    other.join();
}
