// Every rule's step on one vector, through the public API, on every level and over sizes; and beside it the plain loop
// that moves as many arrays, the mixed pipeline with its own, and its reading sweep alone. Rules and variants are those
// of the tests: a new one joins by itself.
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include <benchmark/benchmark.h>

#include <fusedopt/fusedopt.hpp>

#include "arrays.hpp"
#include "cases.hpp"
#include "runtime/plain_loop.hpp"

namespace {

constexpr std::int64_t smallest = 1 << 6, largest = 1 << 22;

/// The variable and all arrays of its size that are kept for it.
std::size_t state_arrays(const fusedopt::Optimizer& optimizer, std::int64_t size) {
    std::size_t count = 1;
    for (const auto& [name, tensor] : optimizer.variables()) count += tensor.size() == size;
    return count;
}

std::size_t state_arrays(const fusedopt::Rule& rule) {
    Arrays arrays(1, smallest);
    fusedopt::Optimizer optimizer(rule);
    optimizer.build({fusedopt::Tensor(arrays[0])});
    return state_arrays(optimizer, smallest);
}

/// The gradient is read, all else is read and written.
std::size_t bytes_an_element(std::size_t state) {
    return sizeof(float) * (1 + 2 * state);
}

void report(benchmark::State& state, std::size_t bytes) {
    state.SetBytesProcessed(state.iterations() * state.range(0) * static_cast<std::int64_t>(bytes));
    state.SetLabel(std::to_string(bytes) + " bytes an element");
}

void step(benchmark::State& state, const fusedopt::Rule& rule, const std::string& level) {
    fusedopt::set_level(level);
    Arrays arrays(2, state.range(0));
    fusedopt::Optimizer optimizer(rule);
    optimizer.build({fusedopt::Tensor(arrays[0])});
    const std::array gradients = {fusedopt::Tensor(arrays[1])};
    for (auto _ : state) optimizer.apply(gradients);
    report(state, bytes_an_element(state_arrays(optimizer, state.range(0))));
}

void plain_loop(benchmark::State& state, std::size_t count, const std::string& level) {
    fusedopt::set_level(level);
    Arrays arrays(count + 1, state.range(0));
    std::vector<float*> updated;
    for (std::size_t i = 0; i < count; ++i) updated.push_back(arrays[i].data());
    const std::array<const float*, 1> read = {arrays[count].data()};
    fusedopt::PlainLoop loop;
    loop.add(updated, read, nullptr, state.range(0));
    for (auto _ : state) loop.run();
    report(state, bytes_an_element(count));
}

/// A step that an infinite gradient in the last place makes skip: nothing but the reading sweep.
void skipped_step(benchmark::State& state, fusedopt::DType dtype, const std::string& level) {
    fusedopt::set_level(level);
    Arrays arrays(2, state.range(0));
    fusedopt::LossScaleOptimizer optimizer{fusedopt::Optimizer(fusedopt::SGD{})};
    optimizer.build({fusedopt::Tensor(arrays[0])});
    std::vector<std::uint16_t> narrow(static_cast<std::size_t>(state.range(0)), 0x3000);
    narrow.back() = dtype == fusedopt::DType::float16 ? 0x7c00 : 0x7f80;
    arrays[1].back() = std::numeric_limits<float>::infinity();
    void* gradient = narrow.data();
    if (dtype == fusedopt::DType::float32) gradient = arrays[1].data();
    const std::array shape = {state.range(0)};
    const std::array gradients = {fusedopt::Tensor(gradient, dtype, shape)};
    for (auto _ : state) {
        if (optimizer.apply(gradients)) state.SkipWithError("expected a skipped step");
    }
    report(state, fusedopt::item_size(dtype));
}

/// The whole pipeline for float16 gradients: overflow check, unscaling, global norm, AdamW and a moving average.
struct MixedPipeline {
    explicit MixedPipeline(std::int64_t size) : arrays(1, size), narrow(static_cast<std::size_t>(size), 0x3000) {
        optimizer.build({fusedopt::Tensor(arrays[0])});
    }

    Arrays arrays;
    std::vector<std::uint16_t> narrow;
    fusedopt::LossScaleOptimizer optimizer{
        fusedopt::Optimizer(fusedopt::AdamW{}, {.global_clipnorm = 1.0, .use_ema = true})};
};

// Twice the gradient; variable, two moments and average.
constexpr std::size_t mixed_bytes = 2 * sizeof(std::uint16_t) + 2 * 4 * sizeof(float);

void mixed_pipeline(benchmark::State& state, const std::string& level) {
    fusedopt::set_level(level);
    MixedPipeline pipeline(state.range(0));
    const std::array shape = {state.range(0)};
    const std::array gradients = {fusedopt::Tensor(pipeline.narrow.data(), fusedopt::DType::float16, shape)};
    for (auto _ : state) pipeline.optimizer.apply(gradients);
    report(state, mixed_bytes);
}

/// Its limit, in its own arrays: the gradient is read, as float32, then everything is moved.
void mixed_loop(benchmark::State& state, const std::string& level) {
    fusedopt::set_level(level);
    MixedPipeline pipeline(state.range(0));
    std::vector<float*> updated = {pipeline.arrays[0].data()};
    for (const auto& [name, tensor] : pipeline.optimizer.variables()) {
        if (tensor.size() == state.range(0)) updated.push_back(static_cast<float*>(tensor.data()));
    }
    const std::array read = {reinterpret_cast<const float*>(pipeline.narrow.data())};
    fusedopt::PlainLoop reading, updating;
    reading.add({}, read, nullptr, state.range(0) / 2);
    updating.add(updated, {}, pipeline.narrow.data(), state.range(0));
    for (auto _ : state) {
        reading.run();
        updating.run();
    }
    report(state, mixed_bytes);
}

template <class Body>
void add(const std::string& name, const Body& body) {
    for (const std::string& level : fusedopt::supported_levels()) {
        const auto run = [body, level](benchmark::State& state) { body(state, level); };
        // Other threads' work counts as well, so the time is the clock's.
        benchmark::RegisterBenchmark((name + "/" + level).c_str(), run)
            ->RangeMultiplier(4)
            ->Range(smallest, largest)
            ->Arg(smallest - 1)  // whose last cache line is not whole
            ->UseRealTime();
    }
}

}  // namespace

int main(int count, char** words) {
    fusedopt::read_environment();
    std::set<std::size_t> loops;
    for (const RuleCase& one : rule_cases()) loops.insert(state_arrays(one.rule));
    for (const std::size_t arrays : loops) {
        const auto run = [arrays](benchmark::State& state, const std::string& level) {
            plain_loop(state, arrays, level);
        };
        add("plain loop of " + std::to_string(bytes_an_element(arrays)) + " bytes", run);
    }
    for (const fusedopt::DType dtype :
         {fusedopt::DType::float16, fusedopt::DType::bfloat16, fusedopt::DType::float32}) {
        const auto run = [dtype](benchmark::State& state, const std::string& level) {
            skipped_step(state, dtype, level);
        };
        add("skipped step, " + std::string(fusedopt::to_string(dtype)), run);
    }
    add("mixed pipeline", mixed_pipeline);
    add("plain loops of the mixed pipeline", mixed_loop);
    for (const RuleCase& one : rule_cases()) {
        const auto run = [rule = one.rule](benchmark::State& state, const std::string& level) {
            step(state, rule, level);
        };
        add(one.name, run);
    }
    benchmark::Initialize(&count, words);
    if (benchmark::ReportUnrecognizedArguments(count, words)) return 1;
    benchmark::AddCustomContext("fusedopt", std::string(fusedopt::version()));
    benchmark::AddCustomContext("threads", std::to_string(fusedopt::num_threads()));
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
