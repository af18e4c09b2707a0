// Division and square root of the hardware against refined estimates, in Adam's loop on arrays in the cache, and what
// the hardware's units need alone. Whoever gives other bits than the hardware is not timed.
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>

#include <benchmark/benchmark.h>

#include "arrays.hpp"
#include "division.hpp"

namespace {

using Step = decltype(Way::step);

constexpr std::int64_t smallest = 1 << 12, largest = 1 << 16;

/// An optimizer's arrays after some steps.
class Stepped {
public:
    Stepped(std::int64_t size, Step step, int steps) : arrays_(4, size), size_(size), step_(step) {
        for (std::size_t slot = 2; slot < 4; ++slot) std::ranges::fill(arrays_[slot], 0.0f);
        for (int i = 0; i < steps; ++i) (*this)();
    }

    void operator()() { step_(arrays_[0].data(), arrays_[1].data(), arrays_[2].data(), arrays_[3].data(), size_); }

    bool same_bits(Stepped& other) {
        for (std::size_t i = 0; i < 4; ++i) {
            if (std::memcmp(arrays_[i].data(), other.arrays_[i].data(), arrays_[i].size_bytes()) != 0) return false;
        }
        return true;
    }

private:
    Arrays arrays_;
    std::int64_t size_;
    Step step_;
};

void check(const std::string& name, Step step, Step hardware) {
    for (const int steps : {1, 10, 100, 1000}) {
        Stepped ours(largest, step, steps), expected(largest, hardware, steps);
        if (!ours.same_bits(expected)) {
            std::fprintf(stderr, "%s: expected the hardware's bits after %d steps, found others\n", name.c_str(),
                         steps);
            std::exit(1);
        }
    }
}

void report(benchmark::State& state, std::int64_t size) {
    state.counters["s/element"] = benchmark::Counter(static_cast<double>(state.iterations() * size),
                                                     benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

void add(const std::string& width, std::span<const Way> ways, std::span<const Units> all_units) {
    for (const Way& way : ways) {
        const std::string name = width + "/" + way.name;
        check(name, way.step, wide_256::ways[0].step);
        const auto run = [step = way.step](benchmark::State& state) {
            Stepped stepped(state.range(0), step, 1);
            for (auto _ : state) stepped();
            report(state, state.range(0));
        };
        benchmark::RegisterBenchmark(name.c_str(), run)->RangeMultiplier(4)->Range(smallest, largest);
    }
    for (const Units& units : all_units) {
        const auto run = [run = units.run](benchmark::State& state) {
            for (auto _ : state) run(smallest);
            report(state, smallest);
        };
        benchmark::RegisterBenchmark((width + "/" + units.name).c_str(), run);
    }
}

}  // namespace

int main(int count, char** words) {
    benchmark::Initialize(&count, words);
    if (benchmark::ReportUnrecognizedArguments(count, words)) return 1;
    if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma")) {
        std::fprintf(stderr, "expected a processor with AVX2 and FMA\n");
        return 1;
    }
    add("256 bits", wide_256::ways, wide_256::units);
    if (__builtin_cpu_supports("avx512f")) add("512 bits", wide_512::ways, wide_512::units);
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
