// Threads that read records of files straight into the caller's memory, and check what came: first what is
// waited for, and when all of that is there what may be needed later, a few at once. A token waits for some
// reads in each layer; where Python's threads do this, they take turns for its one lock with the thread that
// waits.
#pragma once

#include "abi.h"

#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

struct QwReaders {
  public:
    QwReaders(int num_threads, int later_at_once);
    ~QwReaders(); // drops what nobody has begun, and waits for the rest

    void submit(QwRead* const* reads, int count, bool is_urgent);
    void hurry(QwRead* read);
    bool cancel(QwRead* read);
    bool wait(QwRead* const* reads, int count, int timeout_ms);

  private:
    void run();
    void stop();
    QwRead* take(bool* is_urgent);
    bool may_begin_later() const;

    std::mutex mutex_;
    std::condition_variable offered_, finished_; // for the threads, for whoever waits
    std::deque<QwRead*> urgent_, later_;
    int urgent_begun_ = 0, later_begun_ = 0; // and not done
    const int later_at_once_;
    bool is_open_ = true;
    std::vector<std::thread> threads_;
};
