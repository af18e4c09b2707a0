// An own rule compiled with whatever flags: its bits must not depend on where variables are cut. It is built by itself,
// against the installed package, and prints whether the bits are also those of the library's rule.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <span>
#include <vector>

#include "own_rules.hpp"

namespace {

using Floats = std::vector<float>;

constexpr std::size_t size = 5000;

Floats numbers(std::uint32_t seed) {
    Floats made(size);
    for (float& x : made) {
        seed = seed * 1664525u + 1013904223u;
        x = static_cast<float>(seed >> 8) * 0x1p-23f - 1.0f;
    }
    return made;
}

/// The weights after some steps, the elements being those of variables of at most so many.
Floats trained(const fusedopt::Rule& rule, std::size_t most, int threads) {
    fusedopt::set_num_threads(threads);
    Floats weights = numbers(1);
    const auto cut = [&](Floats& all) {
        std::vector<fusedopt::Tensor> tensors;
        for (std::size_t i = 0, n; i < size; i += n) {
            n = size - i < most ? size - i : most;
            tensors.emplace_back(std::span(all).subspan(i, n));
        }
        return tensors;
    };
    fusedopt::Optimizer optimizer(rule, {.weight_decay = 0.1});
    optimizer.build(cut(weights));
    for (std::uint32_t step = 0; step < 20; ++step) {
        Floats gradients = numbers(100 + step);
        const std::vector<fusedopt::Tensor> views = cut(gradients);
        optimizer.apply(std::vector<fusedopt::Gradient>(views.begin(), views.end()));
    }
    return weights;
}

bool same(const Floats& a, const Floats& b) {
    return std::memcmp(a.data(), b.data(), size * sizeof(float)) == 0;
}

}  // namespace

int main() {
    bool is_library = true;
    for (const auto& [name, own, built_in] : own_rules) {
        const Floats whole = trained(own, size, 1);
        for (const std::size_t most : {1u, 3u, 15u, 16u, 17u, 31u, 1000u, 1025u}) {
            for (const int threads : {1, 2}) {
                if (same(trained(own, most, threads), whole)) continue;
                std::printf("%s: cut at %zu on %d threads, it has other bits\n", name, most, threads);
                return 1;
            }
        }
        is_library = is_library && same(trained(built_in, size, 1), whole);
    }
    std::puts(is_library ? "the library's bits" : "bits of its own");
}
