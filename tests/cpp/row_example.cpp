// The example of rows in cpp/README.md: a test holds the two to each other.
#include <array>
#include <cstdint>
#include <vector>

#include <fusedopt/fusedopt.hpp>

#include "check.hpp"

TEST(example_of_the_readme) {
    std::vector<float> weights(1000 * 8, 1.0f), gradients(3 * 8, 0.5f);
    std::vector<std::int64_t> rows{7, 42, 7};  // in any order; the values of row 7 are summed
    const fusedopt::Tensor table(weights.data(), fusedopt::DType::float32, std::array<std::int64_t, 2>{1000, 8});
    const fusedopt::Tensor values(gradients.data(), fusedopt::DType::float32, std::array<std::int64_t, 2>{3, 8});
    const fusedopt::Tensor indices(rows);
    fusedopt::Optimizer optimizer(fusedopt::SGD{.momentum = 0.9}, {.row_updates = fusedopt::RowUpdates::caught_up});
    optimizer.build({table});
    for (int step = 0; step < 100; ++step) {
        optimizer.catch_up(table, indices);  // then read the rows, and compute the values
        optimizer.apply({fusedopt::RowGradient{values, indices}});
    }
    optimizer.catch_up();  // all rows
    CHECK_EQUAL(weights[0], 1.0f);
    CHECK(weights[7 * 8] < weights[42 * 8]);
    CHECK(weights[42 * 8] < 0.0f);
}
