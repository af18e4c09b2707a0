// How many threads a step uses: what the program, the environment, the machine and OpenMP say.
#include "runtime/threads.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <climits>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include <fusedopt/runtime.hpp>

#include "runtime/affinity.hpp"
#include "runtime/team.hpp"

namespace fusedopt {
namespace {

// Elements below which a second thread costs more than it saves: waking it takes some microseconds.
constexpr std::int64_t serial_elements = 32 * 1024;
constexpr int most_threads = 1024;

// The number of threads, and what it comes from. If it comes from the machine it can change, so it is counted each
// time.
enum class Source : int { unread, machine, set_num_threads, fusedopt_num_threads, omp_num_threads, no_threads };

// Aligned to its size: Clang would call libatomic otherwise.
struct alignas(8) Choice {
    Source source;
    int count;
};

std::atomic<Choice> choice{{Source::unread, 0}};
std::atomic<int> processors_of_quota{INT_MAX};
std::atomic<bool> is_omp_num_threads_ignored{false};

int affinity_count() {
#if defined(_OPENMP)
    if (is_bound_by_openmp()) return std::max(1, omp_get_num_procs());
#endif
#if defined(__linux__)
    if (const Affinity affinity = current_affinity(); affinity.is_known) return std::max(1, CPU_COUNT(&affinity.set));
#endif
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
}

#if defined(__linux__)

std::string first_line(const std::string& path) {
    std::ifstream file(path);
    std::string text;
    std::getline(file, text);
    return text;
}

// The path of this process's control group for a controller; version 2 has the empty controller name.
std::string group_path(const std::string& controller) {
    std::ifstream file("/proc/self/cgroup");
    for (std::string line; std::getline(file, line);) {
        const auto first = line.find(':');
        const auto second = line.find(':', first + 1);
        if (second == std::string::npos) continue;
        std::stringstream names(line.substr(first + 1, second - first - 1));
        if (controller.empty() && second == first + 1) return line.substr(second + 1);
        for (std::string name; std::getline(names, name, ',');) {
            if (name == controller) return line.substr(second + 1);
        }
    }
    return "/";
}

double quota_at(const std::string& version_2, const std::string& version_1) {
    double quota = 0, period = 0;
    if (std::istringstream(first_line(version_2 + "/cpu.max")) >> quota >> period && period > 0) return quota / period;
    if (std::istringstream(first_line(version_1 + "/cpu.cfs_quota_us")) >> quota && quota > 0 &&
        std::istringstream(first_line(version_1 + "/cpu.cfs_period_us")) >> period && period > 0) {
        return quota / period;
    }
    return HUGE_VAL;
}

// A quota holds for every group below it, so the smallest one on the way up counts.
double quota() {
    std::string v2 = group_path(""), v1 = group_path("cpu");
    double smallest = quota_at("/sys/fs/cgroup", "/sys/fs/cgroup/cpu");
    while (v2.size() > 1 || v1.size() > 1) {
        smallest = std::min(smallest, quota_at("/sys/fs/cgroup" + v2, "/sys/fs/cgroup/cpu" + v1));
        v2.resize(std::min(v2.size(), v2.find_last_of('/')));
        v1.resize(std::min(v1.size(), v1.find_last_of('/')));
    }
    return smallest;
}

#else

double quota() {
    return HUGE_VAL;
}

#endif

std::string_view trimmed(std::string_view text) {
    const auto begin = text.find_first_not_of(" \t\n\v\f\r");
    if (begin == std::string_view::npos) return {};
    return text.substr(begin, text.find_last_not_of(" \t\n\v\f\r") + 1 - begin);
}

std::optional<int> count_in(std::string_view text, int most) {
    int count = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error != std::errc() || end != text.data() + text.size() || count < 1 || count > most) return std::nullopt;
    return count;
}

// OpenMP's value is a list for nested regions, and its first entry is ours. If one entry is no count, OpenMP ignores
// them all.
std::optional<int> first_count_in(std::string_view list) {
    std::optional<int> first;
    for (;;) {
        const auto comma = list.find(',');
        std::string_view entry = trimmed(list.substr(0, comma));
        if (entry.starts_with('+')) entry.remove_prefix(1);
        const std::optional<int> count = count_in(entry, first ? INT_MAX : most_threads);
        if (!count) return std::nullopt;
        if (!first) first = count;
        if (comma == std::string_view::npos) return first;
        list.remove_prefix(comma + 1);
    }
}

Choice choice_of_environment() {
    if (const char* text = std::getenv("FUSEDOPT_NUM_THREADS"); text && *text) {
        const std::optional<int> count = count_in(text, most_threads);
        if (!count) {
            throw std::invalid_argument("FUSEDOPT_NUM_THREADS: expected a whole number from 1 to " +
                                        std::to_string(most_threads) + ", found '" + text + "'");
        }
        if (has_threads()) return {Source::fusedopt_num_threads, *count};
    }
    if (!has_threads()) return {Source::no_threads, 1};
    if (const char* text = std::getenv("OMP_NUM_THREADS")) {
        if (const std::optional<int> count = first_count_in(text)) return {Source::omp_num_threads, *count};
        is_omp_num_threads_ignored.store(true, std::memory_order_relaxed);
    }
    const double allowed = quota();
    if (allowed < most_threads) processors_of_quota.store(std::max(1, static_cast<int>(std::ceil(allowed))));
    return {Source::machine, 0};
}

Choice current_choice() {
    const Choice known = choice.load(std::memory_order_acquire);
    if (known.source != Source::unread) return known;
    const Choice read = choice_of_environment();
    choice.store(read, std::memory_order_release);
    return read;
}

#if defined(_OPENMP)

// What OpenMP allows unless somebody lowers it, for example threadpoolctl, which calls omp_set_num_threads.
const int openmp_default = [] {
    const char* text = std::getenv("OMP_NUM_THREADS");
    return (text ? first_count_in(text) : std::nullopt).value_or(omp_get_num_procs());
}();

int openmp_limit() {
    if (omp_get_active_level() >= omp_get_max_active_levels()) return 1;
    const int most = omp_get_max_threads();
    return std::min(omp_get_thread_limit(), most < openmp_default ? most : INT_MAX);
}

#else

int openmp_limit() {
    return INT_MAX;
}

#endif

struct ThreadCount {
    int count;
    const char* source;
};

ThreadCount count_of_machine() {
    const int affinity = affinity_count();
    const int allowed = processors_of_quota.load(std::memory_order_relaxed);
    if (allowed < affinity) return {allowed, "control group quota"};
    return {std::min(affinity, most_threads), "processors"};
}

ThreadCount unlimited_count() {
    const Choice chosen = current_choice();
    switch (chosen.source) {
        case Source::set_num_threads:
            return {chosen.count, "set_num_threads"};
        case Source::fusedopt_num_threads:
            return {chosen.count, "FUSEDOPT_NUM_THREADS"};
        case Source::omp_num_threads:
            return {chosen.count, "OMP_NUM_THREADS"};
        case Source::no_threads:
            return {1, "built without threads"};
        default:
            return count_of_machine();
    }
}

ThreadCount thread_count() {
    const ThreadCount count = unlimited_count();
    if (was_forked_after_a_team()) return {1, "forked after a threaded step"};
    if (const int limit = openmp_limit(); limit < count.count) return {limit, "limit of OpenMP"};
    return count;
}

}  // namespace

int threads_for(std::int64_t elements) {
    if (elements < 2 * serial_elements) return 1;
    return static_cast<int>(std::min<std::int64_t>(num_threads(), elements / serial_elements));
}

std::int64_t shares_for(int threads, std::int64_t elements) {
    if (threads == 1) return 1;
    // So many that nobody waits long for a thread that comes late or is interrupted.
    constexpr std::int64_t fewest = 8, most_elements = 32 * 1024;
    return threads * std::max(fewest, elements / (threads * most_elements));
}

bool ignores_omp_num_threads() {
    current_choice();
    return is_omp_num_threads_ignored.load(std::memory_order_relaxed);
}

int num_processors() {
    const int affinity = affinity_count();
    const double allowed = quota();
    return allowed < affinity ? std::max(1, static_cast<int>(std::ceil(allowed))) : affinity;
}

bool has_threads() {
#if defined(_OPENMP)
    return true;
#else
    return false;
#endif
}

int num_threads() {
    return thread_count().count;
}

void set_num_threads(int count) {
    if (count < 1 || count > most_threads) {
        throw std::invalid_argument("num_threads: expected a whole number from 1 to " + std::to_string(most_threads) +
                                    ", found " + std::to_string(count));
    }
    if (count > 1 && !has_threads()) {
        throw std::invalid_argument("num_threads: expected 1, as this build has no threads, found " +
                                    std::to_string(count));
    }
    choice.store({Source::set_num_threads, count}, std::memory_order_release);
}

std::string_view num_threads_source() {
    return thread_count().source;
}

}  // namespace fusedopt
