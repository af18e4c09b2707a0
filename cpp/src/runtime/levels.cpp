// Which level runs: the highest that the processor and the operating system support, or the one that is asked for.
#include "runtime/levels.hpp"

#include <atomic>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include <fusedopt/runtime.hpp>

#include "kernel/levels.hpp"

#if defined(__x86_64__) || defined(_M_X64)
#define FUSEDOPT_ASKS_CPUID
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif

namespace fusedopt {
namespace {

#if !defined(FUSEDOPT_ASKS_CPUID)

bool always() {
    return true;
}

#else

struct Registers {
    unsigned eax, ebx, ecx, edx;
};

Registers cpuid(unsigned leaf) {
    Registers r{};
#if defined(_MSC_VER)
    int values[4];
    __cpuidex(values, static_cast<int>(leaf), 0);
    r = {static_cast<unsigned>(values[0]), static_cast<unsigned>(values[1]), static_cast<unsigned>(values[2]),
         static_cast<unsigned>(values[3])};
#else
    __get_cpuid_count(leaf, 0, &r.eax, &r.ebx, &r.ecx, &r.edx);
#endif
    return r;
}

// The operating system must save the registers (their bits of XCR0), or they cannot be used.
bool saves_registers(unsigned bits) {
    constexpr unsigned osxsave = 1u << 27;
    if (!(cpuid(1).ecx & osxsave)) return false;
#if defined(_MSC_VER)
    return (_xgetbv(0) & bits) == bits;
#else
    unsigned low, high;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & bits) == bits;
#endif
}

// The psABI's x86-64-v2: CMPXCHG16B, LAHF and SAHF, POPCNT, SSE3, SSSE3, SSE4.1, SSE4.2.
bool is_x86_64_v2() {
    constexpr unsigned sse3 = 1u << 0, ssse3 = 1u << 9, cmpxchg16b = 1u << 13, sse4_1 = 1u << 19, sse4_2 = 1u << 20;
    constexpr unsigned popcnt = 1u << 23, lahf = 1u << 0;
    constexpr unsigned leaf_1 = sse3 | ssse3 | cmpxchg16b | sse4_1 | sse4_2 | popcnt;
    return (cpuid(1).ecx & leaf_1) == leaf_1 && (cpuid(0x80000001u).ecx & lahf) == lahf;
}

// The psABI's x86-64-v3: AVX2, BMI1, BMI2, F16C, FMA, LZCNT, MOVBE.
[[maybe_unused]] bool is_x86_64_v3() {
    constexpr unsigned fma = 1u << 12, movbe = 1u << 22, avx = 1u << 28, f16c = 1u << 29;
    constexpr unsigned bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8, lzcnt = 1u << 5;
    constexpr unsigned leaf_1 = fma | movbe | avx | f16c, leaf_7 = bmi1 | avx2 | bmi2;
    return is_x86_64_v2() && (cpuid(1).ecx & leaf_1) == leaf_1 && (cpuid(7).ebx & leaf_7) == leaf_7 &&
           (cpuid(0x80000001u).ecx & lzcnt) == lzcnt && saves_registers(0x6);
}

// The psABI's x86-64-v4: AVX-512 F, DQ, CD, BW, VL. And AVX-512 VBMI, which came with Intel's Ice Lake and AMD's Zen 4:
// processors before them lower their clock while they work on 512 bits, so they stay with v3.
[[maybe_unused]] bool is_x86_64_v4() {
    constexpr unsigned f = 1u << 16, dq = 1u << 17, cd = 1u << 28, bw = 1u << 30, vl = 1u << 31, vbmi = 1u << 1;
    constexpr unsigned leaf_7 = f | dq | cd | bw | vl;
    return is_x86_64_v3() && (cpuid(7).ebx & leaf_7) == leaf_7 && (cpuid(7).ecx & vbmi) && saves_registers(0xe6);
}

#endif

constexpr Level all_levels[] = {
#if defined(FUSEDOPT_HAS_baseline)
    {"baseline", &kernel::baseline::kernels, always},
#endif
#if defined(FUSEDOPT_HAS_x86_64_v2)
    {"x86_64_v2", &kernel::x86_64_v2::kernels, is_x86_64_v2},
#endif
#if defined(FUSEDOPT_HAS_x86_64_v3)
    {"x86_64_v3", &kernel::x86_64_v3::kernels, is_x86_64_v3},
#endif
#if defined(FUSEDOPT_HAS_x86_64_v4)
    {"x86_64_v4", &kernel::x86_64_v4::kernels, is_x86_64_v4},
#endif
#if defined(FUSEDOPT_HAS_aarch64)
    {"aarch64", &kernel::aarch64::kernels, always},
#endif
};

#if defined(FUSEDOPT_ASKS_CPUID) && !defined(FUSEDOPT_HAS_x86_64_v2)
constexpr const char* way_out = "build with FUSEDOPT_LEVELS=all";
#else
constexpr const char* way_out = "run on a newer processor (x86_64_v2 needs SSE4.2 and POPCNT)";
#endif

std::string names_of(std::span<const Level> some) {
    std::string names;
    for (const Level& level : some) names += (names.empty() ? "" : ", ") + std::string(level.name);
    return names;
}

const Level& highest_supported() {
    const Level* best = nullptr;
    for (const Level& level : all_levels) {
        if (level.is_supported()) best = &level;
    }
    if (!best) {
        throw std::runtime_error("level: expected a processor that runs one of the compiled levels (" +
                                 names_of(all_levels) + "), found one that runs none, as it lacks instructions of " +
                                 std::string(all_levels[0].name) + "; " + way_out);
    }
    return *best;
}

const Level& find_level(std::string_view name, std::string_view where) {
    std::string known;
    for (const Level& level : all_levels) {
        if (level.name == name && level.is_supported()) return level;
        if (level.is_supported()) known += (known.empty() ? "" : ", ") + std::string(level.name);
    }
    if (known.empty()) highest_supported();  // throws
    throw std::invalid_argument(std::string(where) + ": expected a level this machine supports (" + known +
                                "), found '" + std::string(name) + "'");
}

const Level& level_of_environment() {
    const char* name = std::getenv("FUSEDOPT_ISA");
    return name && *name ? find_level(name, "FUSEDOPT_ISA") : highest_supported();
}

std::atomic<const Level*> chosen_level{nullptr};

const Level& current() {
    const Level* level = chosen_level.load(std::memory_order_acquire);
    if (!level) {
        level = &level_of_environment();
        chosen_level.store(level, std::memory_order_release);
    }
    return *level;
}

}  // namespace

std::span<const Level> levels() {
    return all_levels;
}

const kernel::Kernels& current_kernels() {
    return *current().kernels;
}

std::vector<std::string> compiled_levels() {
    std::vector<std::string> names;
    for (const Level& level : all_levels) names.emplace_back(level.name);
    return names;
}

std::vector<std::string> supported_levels() {
    std::vector<std::string> names;
    for (const Level& level : all_levels) {
        if (level.is_supported()) names.emplace_back(level.name);
    }
    return names;
}

std::string_view level() {
    return current().name;
}

void set_level(std::string_view name) {
    chosen_level.store(&find_level(name, "level"), std::memory_order_release);
}

void read_environment() {
    current();
    num_threads();
}

}  // namespace fusedopt
