// The threads that share out a step's work, and what becomes of them in a fork.
#include "runtime/team.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <mutex>
#include <new>
#include <system_error>
#include <thread>
#include <vector>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

#include "runtime/affinity.hpp"
#include "runtime/threads.hpp"

namespace fusedopt {
namespace {

// A helper that sleeps comes tens of microseconds late. A step on 2^16 elements is over by then.
constexpr std::chrono::microseconds awake_between_steps(2000);

std::atomic<bool> team_started{false};
std::atomic<bool> is_forked_child{false};

void relax() {
#if defined(__x86_64__) || defined(_M_X64)
    _mm_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Waits until `atomic` has another value than `old`. It stays awake for as long as waking up would take, then it
// sleeps.
template <class Value>
void await_change(const std::atomic<Value>& atomic, Value old, std::chrono::microseconds awake) {
    const auto end = std::chrono::steady_clock::now() + awake;
    do {
        for (int k = 0; k < 32; ++k) {
            if (atomic.load(std::memory_order_acquire) != old) return;
            relax();
        }
    } while (std::chrono::steady_clock::now() < end);
    atomic.wait(old, std::memory_order_acquire);
}

void work_alone(std::int64_t shares, void (*work)(const void*, std::int64_t), const void* argument) {
    const FloatEnvironment environment;
    for (std::int64_t k = 0; k < shares; ++k) work(argument, k);
}

// Threads that help the one that borrows them. Each takes shares from its own queue first, so that it meets the same
// memory in each step, and then from the other queues. The borrower does not wait for a thread that has not come when
// all shares are taken.
class Team {
public:
    void share_out(int threads, std::int64_t shares, void (*work)(const void*, std::int64_t), const void* argument) {
        members_ = recruit(threads);
        if (members_ == 1) return work_alone(shares, work, argument);
        work_ = work;
        argument_ = argument;
        for (int m = 0; m < members_; ++m) {
            queue_of(m).next.store(shares * m / members_, std::memory_order_relaxed);
            queue_of(m).end = shares * (m + 1) / members_;
        }
        gate_.store(open, std::memory_order_release);
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();
        take_shares(0);
        for (unsigned inside = gate_.fetch_and(~open, std::memory_order_acq_rel) & ~open; inside != 0;
             inside = gate_.load(std::memory_order_acquire)) {
            await_change(gate_, inside, std::chrono::microseconds(50));
        }
    }

    Team* next_idle = nullptr;

private:
    struct alignas(64) Queue {
        std::atomic<std::int64_t> next;
        std::int64_t end;
    };

    Queue& queue_of(int member) { return queues_[static_cast<std::size_t>(member)]; }

    // As many members as asked for, or as the system gives; 1 if there is no memory for more.
    int recruit(int threads) {
#if defined(__linux__)
        const Affinity affinity = current_affinity();
        if (!is_bound_by_openmp() && affinity.is_known && !(affinity == affinity_)) {
            for (std::thread& helper : helpers_) {
                pthread_setaffinity_np(helper.native_handle(), sizeof(affinity.set), &affinity.set);
            }
            affinity_ = affinity;
        }
#endif
        // A step may have begun to write, so a thread that cannot be had must not end it.
        try {
            if (static_cast<std::size_t>(threads) > capacity_) {
                helpers_.reserve(static_cast<std::size_t>(threads) - 1);
                queues_ = std::make_unique<Queue[]>(static_cast<std::size_t>(threads));
                capacity_ = static_cast<std::size_t>(threads);
            }
            while (static_cast<int>(helpers_.size()) + 1 < threads) {
                const int member = static_cast<int>(helpers_.size()) + 1;
                helpers_.emplace_back(&Team::serve, this, member);
                bind(helpers_.back(), member);
            }
        } catch (const std::system_error&) {
        } catch (const std::bad_alloc&) {
        }
        return static_cast<int>(std::min({static_cast<std::size_t>(threads), capacity_, helpers_.size() + 1}));
    }

    // If OpenMP binds threads to places, a member goes to the place that OpenMP would have given it.
    static void bind([[maybe_unused]] std::thread& helper, [[maybe_unused]] int member) {
#if defined(_OPENMP) && defined(__linux__)
        if (!is_bound_by_openmp()) return;
        const int place = (std::max(0, omp_get_place_num()) + member) % omp_get_num_places();
        std::vector<int> processors(static_cast<std::size_t>(omp_get_place_num_procs(place)));
        omp_get_place_proc_ids(place, processors.data());
        cpu_set_t set;
        CPU_ZERO(&set);
        for (const int processor : processors) CPU_SET(static_cast<std::size_t>(processor), &set);
        pthread_setaffinity_np(helper.native_handle(), sizeof(set), &set);
#endif
    }

    void serve(int member) {
        for (int seen = 0;;) {
            await_change(calls_, seen, awake_between_steps);
            seen = calls_.load(std::memory_order_acquire);
            if (!enter()) continue;
            if (member < members_) take_shares(member);
            if (gate_.fetch_sub(1, std::memory_order_acq_rel) == 1) gate_.notify_one();
        }
    }

    bool enter() {
        unsigned gate = gate_.load(std::memory_order_relaxed);
        while (gate & open) {
            if (gate_.compare_exchange_weak(gate, gate + 1, std::memory_order_acquire)) return true;
        }
        return false;
    }

    void take_shares(int member) {
        const FloatEnvironment environment;
        for (int m = 0; m < members_; ++m) {
            Queue& queue = queue_of((member + m) % members_);
            while (queue.next.load(std::memory_order_relaxed) < queue.end) {
                const std::int64_t share = queue.next.fetch_add(1, std::memory_order_relaxed);
                if (share < queue.end) work_(argument_, share);
            }
        }
    }

    // The gate: open while there may be shares, and how many helpers are inside.
    static constexpr unsigned open = 1u << 31;
    alignas(64) std::atomic<unsigned> gate_{0};
    alignas(64) std::atomic<int> calls_{0};
    // Written by the borrower while the gate is closed and nobody inside.
    int members_ = 1;
    void (*work_)(const void*, std::int64_t) = nullptr;
    const void* argument_ = nullptr;
    std::unique_ptr<Queue[]> queues_;
    std::size_t capacity_ = 0;
    std::vector<std::thread> helpers_;
#if defined(__linux__)
    Affinity affinity_ = current_affinity();
#endif
};

// Teams that nobody uses now. They are never destroyed: a thread may step while the process ends.
constinit std::mutex idle_mutex;
constinit Team* idle_teams = nullptr;

// Null if there is no memory for one.
Team* borrow_team() {
    {
        const std::lock_guard lock(idle_mutex);
        if (Team* team = idle_teams) {
            idle_teams = team->next_idle;
            return team;
        }
    }
    team_started.store(true, std::memory_order_relaxed);
    return new (std::nothrow) Team;
}

void give_back(Team& team) {
    const std::lock_guard lock(idle_mutex);
    team.next_idle = idle_teams;
    idle_teams = &team;
}

#if defined(__unix__) || defined(__APPLE__)

void before_fork() {
    idle_mutex.lock();
}

void in_parent() {
    idle_mutex.unlock();
}

// The helpers were not forked.
void in_child() {
    idle_teams = nullptr;
    idle_mutex.unlock();
    if (team_started.load(std::memory_order_relaxed)) is_forked_child.store(true, std::memory_order_relaxed);
}

[[maybe_unused]] const int fork_handler = pthread_atfork(before_fork, in_parent, in_child);

#endif

}  // namespace

void share_out(int threads, std::int64_t shares, void (*work)(const void*, std::int64_t), const void* argument) {
    Team* team = borrow_team();
    if (!team) return work_alone(shares, work, argument);
    team->share_out(threads, shares, work, argument);
    give_back(*team);
}

bool was_forked_after_a_team() {
    return is_forked_child.load(std::memory_order_relaxed);
}

}  // namespace fusedopt
