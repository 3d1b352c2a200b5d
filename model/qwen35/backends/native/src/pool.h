// Threads that share the items of a loop.
//
// The caller works too, and waits only for items that were taken, never for a thread that has not woken up:
// on a busy machine a sleeping worker costs nothing. Workers spin for some tens of microseconds after a job,
// because the next usually follows at once, and then sleep.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace qw {

class Pool {
  public:
    explicit Pool(int num_threads);
    ~Pool();
    Pool(const Pool&) = delete;

    int num_threads() const { return int(workers_.size()) + 1; }

    // Calls body(item, thread) for each item in [0, num_items), in any order, on any thread; thread is in
    // [0, num_threads()). Returns when all are done.
    template <class Body>
    void run(int num_items, const Body& body) {
        run_items(
            num_items,
            [](const void* self, int item, int thread) { (*static_cast<const Body*>(self))(item, thread); },
            &body);
    }

  private:
    using Function = void (*)(const void*, int item, int thread);
    void run_items(int num_items, Function function, const void* self);
    void work(int thread);
    bool take_and_run(int thread);

    // Number of the job in the upper half, next item in the lower. A worker reads the job's fields, then
    // takes an item by comparing and exchanging: if that succeeds, the number has not changed in between,
    // and the fields belong to it. An odd number means that the fields are being written.
    std::atomic<uint64_t> ticket_{0};
    std::atomic<Function> function_{nullptr};
    std::atomic<const void*> self_{nullptr};
    std::atomic<int> num_items_{0};
    std::atomic<int> num_done_{0};

    std::mutex mutex_;
    std::condition_variable wake_;
    std::atomic<int> num_asleep_{0};
    std::atomic<bool> is_ending_{false};
    std::vector<std::thread> workers_;
};

} // namespace qw
