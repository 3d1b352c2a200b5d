#include "readers.h"

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <fcntl.h>
#include <unistd.h>

namespace {

// As weights/checksum.py defines it: words of 64 bits times the powers of BASE, modulo 2^64.
uint64_t checksum(const uint8_t* data, int64_t num_bytes) {
    constexpr uint64_t BASE = 0x9E3779B97F4A7C15;
    constexpr int SUMS = 8;
    uint64_t powers[SUMS + 1] = {1};
    for (int i = 0; i < SUMS; i++) powers[i + 1] = powers[i] * BASE;
    uint64_t sums[SUMS] = {}, power = 1; // power: of the first of the next words
    const auto word = [](const uint8_t* at, size_t count) {
        uint64_t value = 0;
        std::memcpy(&value, at, count);
        return value;
    };
    int64_t done = 0;
    for (; done + SUMS * 8 <= num_bytes; done += SUMS * 8) {
        for (int i = 0; i < SUMS; i++) sums[i] += word(data + done + i * 8, 8) * power;
        power *= powers[SUMS];
    }
    uint64_t total = 0;
    for (int i = 0; i < SUMS; i++) total += sums[i] * powers[i];
    for (; done < num_bytes; done += 8, power *= BASE) {
        total += word(data + done, size_t(std::min<int64_t>(8, num_bytes - done))) * power;
    }
    return total;
}

bool read_and_check(const QwRead& read) {
    uint8_t* memory = static_cast<uint8_t*>(read.memory);
    for (int64_t done = 0; done < read.num_bytes;) {
        const ssize_t count =
            pread(read.fd, memory + done, size_t(read.num_bytes - done), off_t(read.offset + done));
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return false;
        done += count;
    }
#ifdef POSIX_FADV_DONTNEED
    // A second copy in the system's cache would push out what the caller's memory could hold.
    if (read.is_cached) posix_fadvise(read.fd, off_t(read.offset), off_t(read.num_bytes), POSIX_FADV_DONTNEED);
#endif
    return std::all_of(read.checks, read.checks + read.num_checks, [&](const QwCheck& check) {
        return checksum(memory + check.begin, check.end - check.begin) == check.checksum;
    });
}

bool is_done(const QwRead* read) { return read->state == QW_READ_DONE || read->state == QW_READ_FAILED; }

} // namespace

QwReaders::QwReaders(int num_threads, int later_at_once) : later_at_once_(later_at_once) {
    try {
        for (int i = 0; i < num_threads; i++) threads_.emplace_back([this] { run(); });
    } catch (...) {
        stop();
        throw;
    }
}

QwReaders::~QwReaders() { stop(); }

void QwReaders::stop() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        is_open_ = false;
        urgent_.clear();
        later_.clear();
    }
    offered_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void QwReaders::submit(QwRead* const* reads, int count, bool is_urgent) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        std::deque<QwRead*>& queue = is_urgent ? urgent_ : later_;
        for (int i = 0; i < count; i++) reads[i]->state = QW_READ_WAITS;
        queue.insert(queue.end(), reads, reads + count);
    }
    for (int i = 0; i < count; i++) offered_.notify_one();
}

void QwReaders::hurry(QwRead* read) {
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = std::find(later_.begin(), later_.end(), read);
    if (found == later_.end()) return;
    urgent_.push_back(read);
    later_.erase(found);
}

bool QwReaders::cancel(QwRead* read) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (read->state == QW_READ_WAITS) {
        std::deque<QwRead*>& queue =
            std::find(later_.begin(), later_.end(), read) == later_.end() ? urgent_ : later_;
        queue.erase(std::find(queue.begin(), queue.end(), read));
        read->state = QW_READ_IDLE;
    }
    return read->state == QW_READ_IDLE;
}

bool QwReaders::wait(QwRead* const* reads, int count, int timeout_ms) {
    std::unique_lock<std::mutex> lock(mutex_);
    const auto are_done = [&] { return std::all_of(reads, reads + count, is_done); };
    if (timeout_ms == 0) return are_done(); // no call of the system
    return finished_.wait_for(lock, std::chrono::milliseconds(timeout_ms), are_done);
}

bool QwReaders::may_begin_later() const {
    return !later_.empty() && urgent_begun_ == 0 && later_begun_ < later_at_once_;
}

// The next read, begun; null at the end.
QwRead* QwReaders::take(bool* is_urgent) {
    std::unique_lock<std::mutex> lock(mutex_);
    offered_.wait(lock, [&] { return !is_open_ || !urgent_.empty() || may_begin_later(); });
    if (!is_open_) return nullptr;
    *is_urgent = !urgent_.empty();
    std::deque<QwRead*>& queue = *is_urgent ? urgent_ : later_;
    QwRead* read = queue.front();
    queue.pop_front();
    read->state = QW_READ_BEGUN;
    (*is_urgent ? urgent_begun_ : later_begun_)++;
    return read;
}

void QwReaders::run() {
    bool is_urgent = false;
    while (QwRead* read = take(&is_urgent)) {
        const bool is_good = read_and_check(*read);
        std::lock_guard<std::mutex> lock(mutex_); // held while the others are told: then it may all be gone
        read->state = is_good ? QW_READ_DONE : QW_READ_FAILED;
        (is_urgent ? urgent_begun_ : later_begun_)--;
        finished_.notify_all();
        if (urgent_begun_ == 0 && !later_.empty()) offered_.notify_all();
    }
}
