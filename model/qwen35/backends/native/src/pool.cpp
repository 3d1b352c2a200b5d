#include "pool.h"

#include <chrono>

namespace qw {

namespace {

constexpr auto SPIN = std::chrono::microseconds(60);

inline void relax() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

inline uint64_t job_of(uint64_t ticket) { return ticket >> 32; }
inline int item_of(uint64_t ticket) { return int(uint32_t(ticket)); }

} // namespace

Pool::Pool(int num_threads) {
    for (int i = 1; i < num_threads; i++) workers_.emplace_back([this, i] { work(i); });
}

Pool::~Pool() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        is_ending_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
}

// Take one item of the current job, if any is left, and run it.
bool Pool::take_and_run(int thread) {
    uint64_t ticket = ticket_.load(std::memory_order_acquire);
    while (true) {
        if (job_of(ticket) % 2) return false;
        const Function function = function_.load(std::memory_order_relaxed);
        const void* self = self_.load(std::memory_order_relaxed);
        if (item_of(ticket) >= num_items_.load(std::memory_order_relaxed)) return false;
        if (ticket_.compare_exchange_weak(ticket, ticket + 1, std::memory_order_acq_rel)) {
            function(self, item_of(ticket), thread);
            num_done_.fetch_add(1, std::memory_order_release);
            return true;
        }
    }
}

void Pool::run_items(int num_items, Function function, const void* self) {
    if (num_items <= 1 || workers_.empty()) {
        for (int item = 0; item < num_items; item++) function(self, item, 0);
        return;
    }
    const uint64_t writing = job_of(ticket_.load(std::memory_order_relaxed)) + 1;
    ticket_.store(writing << 32, std::memory_order_seq_cst);
    std::atomic_thread_fence(std::memory_order_seq_cst);
    function_.store(function, std::memory_order_relaxed);
    self_.store(self, std::memory_order_relaxed);
    num_items_.store(num_items, std::memory_order_relaxed);
    num_done_.store(0, std::memory_order_relaxed);
    ticket_.store((writing + 1) << 32, std::memory_order_seq_cst);
    if (num_asleep_.load(std::memory_order_seq_cst)) {
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }
    while (take_and_run(0)) {
    }
    for (int spins = 0; num_done_.load(std::memory_order_acquire) < num_items; spins++) {
        if (spins < 2000) {
            relax();
        } else {
            std::this_thread::yield(); // the thread we wait for may want this very core
        }
    }
}

void Pool::work(int thread) {
    while (!is_ending_) {
        const uint64_t seen = job_of(ticket_.load(std::memory_order_acquire));
        while (take_and_run(thread)) {
        }
        const auto until = std::chrono::steady_clock::now() + SPIN;
        bool is_new = false;
        do {
            for (int i = 0; i < 32 && !is_new; i++) {
                relax();
                is_new = job_of(ticket_.load(std::memory_order_relaxed)) != seen;
            }
        } while (!is_new && std::chrono::steady_clock::now() < until);
        if (is_new) continue;
        std::unique_lock<std::mutex> lock(mutex_);
        num_asleep_.fetch_add(1, std::memory_order_seq_cst);
        wake_.wait(lock,
                   [&] { return is_ending_ || job_of(ticket_.load(std::memory_order_seq_cst)) != seen; });
        num_asleep_.fetch_sub(1, std::memory_order_seq_cst);
    }
}

} // namespace qw
