// A recursive mutex for what may be in use while the process forks. A child has only the thread that forked it, so what
// another thread held is lost to it: locking then throws and waits for nobody.
#pragma once

#include <atomic>
#include <mutex>
#include <thread>

namespace fusedopt {

class Mutex {
public:
    Mutex();
    void lock();
    void unlock();

private:
    std::mutex mutex_;
    std::atomic<std::thread::id> owner_;
    int depth_ = 0;
    std::atomic<unsigned> fork_;  // the last one that this mutex is known to have survived
};

}  // namespace fusedopt
