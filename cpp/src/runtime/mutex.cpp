// How a mutex notices that the process has forked while another thread held it.
#include "runtime/mutex.hpp"

#include <stdexcept>

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fusedopt {
namespace {

// How many forks lie between the first process and this one.
constinit std::atomic<unsigned> forks{0};
constinit std::mutex after_fork;

#if defined(__unix__) || defined(__APPLE__)

void before() {
    after_fork.lock();
}

void unlock_in_parent() {
    after_fork.unlock();
}

void unlock_in_child() {
    forks.fetch_add(1, std::memory_order_relaxed);
    after_fork.unlock();
}

[[maybe_unused]] const int handles_forks = pthread_atfork(before, unlock_in_parent, unlock_in_child);

#endif

}  // namespace

Mutex::Mutex() : fork_(forks.load(std::memory_order_relaxed)) {}

void Mutex::lock() {
    const std::thread::id self = std::this_thread::get_id();  // a fork keeps it
    if (owner_.load(std::memory_order_relaxed) == self) {
        ++depth_;
        return;
    }
    if (const unsigned now = forks.load(std::memory_order_relaxed); fork_.load(std::memory_order_acquire) != now) {
        // No thread of this process has locked it yet, and each one that wants to must come here first.
        const std::lock_guard lock(after_fork);
        if (fork_.load(std::memory_order_relaxed) != now) {
            if (!mutex_.try_lock()) {
                throw std::runtime_error(
                    "optimizer: expected one that no other thread used while this process was forked, found one in the "
                    "middle of a call; build a new optimizer and load what was saved");
            }
            mutex_.unlock();
            fork_.store(now, std::memory_order_release);
        }
    }
    mutex_.lock();
    owner_.store(self, std::memory_order_relaxed);
    depth_ = 1;
}

void Mutex::unlock() {
    if (--depth_ > 0) return;
    owner_.store({}, std::memory_order_relaxed);
    mutex_.unlock();
}

}  // namespace fusedopt
