// Threads: two optimizers at once, one optimizer from two threads, a fork after a threaded step.
#include <thread>

#include "cases.hpp"
#include "check.hpp"
#include "reference.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace {

constexpr std::int64_t size = 100000;
const fusedopt::Options options{.clipnorm = 1.0, .use_ema = true, .gradient_accumulation_steps = 2};

int most_threads() {
    return thread_counts().back();
}

std::vector<std::byte> after_steps(int steps, const Array& start, const Array& gradient) {
    const Array variable = start.copy();
    fusedopt::Optimizer optimizer(fusedopt::Adam{}, options);
    optimizer.build({variable.tensor()});
    for (int k = 0; k < steps; ++k) optimizer.apply({gradient.tensor()});
    return snapshot(optimizer, std::vector{variable.tensor()});
}

}  // namespace

TEST(two_optimizers_step_at_once) {
    fusedopt::set_num_threads(most_threads());
    std::vector<Array> starts, gradients;
    std::vector<std::vector<std::byte>> expected, found(4);
    for (unsigned i = 0; i < 4; ++i) {
        starts.emplace_back(all_dtypes[i], numbers(all_dtypes[i], size, i));
        gradients.emplace_back(DType::float32, numbers(DType::float32, size, 10 + i));
        expected.push_back(after_steps(20, starts[i], gradients[i]));
    }
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < 4; ++i) {
        threads.emplace_back([&, i] { found[i] = after_steps(20, starts[i], gradients[i]); });
    }
    for (std::thread& thread : threads) thread.join();
    for (std::size_t i = 0; i < 4; ++i) CHECK(found[i] == expected[i]);
}

TEST(one_optimizer_is_stepped_by_two_threads) {
    for (const int count : thread_counts()) {
        fusedopt::set_num_threads(count);
        const Array start(DType::float32, numbers(DType::float32, size, 1));
        const Array gradient(DType::float32, numbers(DType::float32, size, 2));
        const Array variable = start.copy();
        fusedopt::Optimizer optimizer(fusedopt::Adam{}, options);
        optimizer.build({variable.tensor()});
        const auto body = [&] {
            for (int k = 0; k < 15; ++k) {
                optimizer.apply({gradient.tensor()});
                optimizer.learning_rate();
                optimizer.global_norm();
            }
        };
        std::thread one(body), other(body);
        one.join();
        other.join();
        CHECK(snapshot(optimizer, std::vector{variable.tensor()}) == after_steps(30, start, gradient));
    }
}

TEST(the_thread_count_may_change_between_steps) {
    const Array start(DType::float64, numbers(DType::float64, size, 1)),
        gradient(DType::float32, numbers(DType::float32, size, 2));
    const auto expected = after_steps(12, start, gradient);
    const Array variable = start.copy();
    fusedopt::Optimizer optimizer(fusedopt::Adam{}, options);
    optimizer.build({variable.tensor()});
    for (int k = 0; k < 12; ++k) {
        fusedopt::set_num_threads(thread_counts()[static_cast<std::size_t>(k) % thread_counts().size()]);
        optimizer.apply({gradient.tensor()});
    }
    CHECK(snapshot(optimizer, std::vector{variable.tensor()}) == expected);
}

#if defined(__unix__) || defined(__APPLE__)

TEST(a_child_forked_after_a_threaded_step_does_not_hang) {
    fusedopt::set_num_threads(most_threads());
    const Array start(DType::float32, numbers(DType::float32, size, 1)),
        gradient(DType::float32, numbers(DType::float32, size, 2));
    const auto expected = after_steps(6, start, gradient);
    const Array variable = start.copy();
    fusedopt::Optimizer optimizer(fusedopt::Adam{}, options);
    optimizer.build({variable.tensor()});
    for (int k = 0; k < 3; ++k) optimizer.apply({gradient.tensor()});
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);  // a hang becomes a death by signal
        for (int k = 0; k < 3; ++k) optimizer.apply({gradient.tensor()});
        const bool same = snapshot(optimizer, std::vector{variable.tensor()}) == expected;
        _exit(same && after_steps(6, start, gradient) == expected ? 0 : 1);
    }
    CHECK(child > 0);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    for (int k = 0; k < 3; ++k) optimizer.apply({gradient.tensor()});
    CHECK(snapshot(optimizer, std::vector{variable.tensor()}) == expected);
}

#endif
