#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <charconv>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>

#include <fusedopt/runtime.hpp>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(_OPENMP) && (defined(__unix__) || defined(__APPLE__))
#include <pthread.h>
#include <sys/stat.h>
#include <condition_variable>
#include <mutex>
#define FUSEDOPT_WATCHES_FORKS
#endif

namespace fusedopt {
namespace {

// Elements below which a second thread costs more than it saves: starting a team takes some microseconds.
constexpr std::int64_t serial_elements = 32 * 1024;
constexpr int most_threads = 1024;

struct ThreadCount {
    int count;
    const char* source;
};

std::atomic<int> chosen_count{0};
std::atomic<const char*> chosen_source{nullptr};
std::atomic<bool> team_started{false};
std::atomic<bool> is_forked_child{false};

int affinity_count() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
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

// Quotas hold for everything below them, so the smallest on the way up counts.
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

// The number a variable holds; OpenMP's may be a list for nested regions, whose first entry is ours.
int count_in(const char* name, const char* text) {
    std::string value = text;
    if (std::string_view(name) == "OMP_NUM_THREADS") value = value.substr(0, value.find(','));
    int count = 0;
    const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), count);
    if (error != std::errc() || end != value.data() + value.size() || count < 1 || count > most_threads) {
        throw std::invalid_argument(std::string(name) + ": expected a whole number from 1 to " +
                                    std::to_string(most_threads) + ", found '" + text + "'");
    }
    return count;
}

ThreadCount count_of_environment() {
    for (const char* name : {"FUSEDOPT_NUM_THREADS", "OMP_NUM_THREADS"}) {
        const char* text = std::getenv(name);
        if (!text || !*text) continue;
        const int count = count_in(name, text);
        if (has_threads()) return {count, name};
    }
    if (!has_threads()) return {1, "built without threads"};
    const double allowed = quota();
    const int affinity = affinity_count();
    if (allowed < affinity) return {std::max(1, static_cast<int>(std::ceil(allowed))), "control group quota"};
    return {affinity, "processors"};
}

void set_count(ThreadCount count) {
    chosen_source.store(count.source, std::memory_order_relaxed);
    chosen_count.store(count.count, std::memory_order_release);
}

#if defined(FUSEDOPT_WATCHES_FORKS)

// A thread that runs what the forked thread gives it, on a team of its own. It ends with the process.
class Deputy {
public:
    Deputy() { std::thread(&Deputy::serve, this).detach(); }

    void run(void (*job)(const void*), const void* argument) {
        std::unique_lock lock(mutex_);
        job_ = job;
        argument_ = argument;
        changed_.notify_all();
        changed_.wait(lock, [this] { return !job_; });
    }

private:
    void serve() {
        for (std::unique_lock lock(mutex_);;) {
            changed_.wait(lock, [this] { return job_; });
            job_(argument_);
            job_ = nullptr;
            changed_.notify_all();
        }
    }

    std::mutex mutex_;
    std::condition_variable changed_;
    void (*job_)(const void*) = nullptr;
    const void* argument_ = nullptr;
};

thread_local bool forks_alone = false;
// True on a forked thread that may have had a team, perhaps of another user of the same OpenMP library.
thread_local bool may_have_lost_team = false;
Deputy* deputy = nullptr;  // of that thread, the only one that was forked

// True where the calling thread is certainly the only one, so nobody has a team. The opposite proves nothing: OpenBLAS,
// for one, has threads as soon as NumPy is imported.
bool is_only_thread() {
#if defined(__linux__)
    struct stat tasks;
    return stat("/proc/self/task", &tasks) == 0 && tasks.st_nlink == 3;  // itself, its parent and one thread
#else
    return false;
#endif
}

void before_fork() {
    forks_alone = is_only_thread();
}

void in_child() {
    if (forks_alone) return;
    may_have_lost_team = true;
    deputy = nullptr;  // the parent's, if it had one, was not forked
    if (team_started.load(std::memory_order_relaxed)) is_forked_child.store(true, std::memory_order_relaxed);
}

const int fork_handler = pthread_atfork(before_fork, nullptr, in_child);

#endif

}  // namespace

void note_team_started() {
    if (!team_started.load(std::memory_order_relaxed)) team_started.store(true, std::memory_order_relaxed);
}

bool run_by_deputy([[maybe_unused]] void (*job)(const void*), [[maybe_unused]] const void* argument) {
#if defined(FUSEDOPT_WATCHES_FORKS)
    if (may_have_lost_team) {
        if (!deputy) deputy = new Deputy;
        deputy->run(job, argument);
        return true;
    }
#endif
    return false;
}

int threads_for(std::int64_t elements) {
    if (elements < 2 * serial_elements || is_forked_child.load(std::memory_order_relaxed)) return 1;
    return static_cast<int>(std::min<std::int64_t>(num_threads(), elements / serial_elements));
}

bool has_threads() {
#if defined(_OPENMP)
    return true;
#else
    return false;
#endif
}

int num_threads() {
    if (chosen_count.load(std::memory_order_acquire) == 0) set_count(count_of_environment());
    return is_forked_child.load(std::memory_order_relaxed) ? 1 : chosen_count.load(std::memory_order_relaxed);
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
    set_count({count, "set_num_threads"});
}

std::string_view num_threads_source() {
    num_threads();
    return is_forked_child.load(std::memory_order_relaxed) ? "forked after a threaded step"
                                                           : chosen_source.load(std::memory_order_relaxed);
}

}  // namespace fusedopt
