// Memory for what lives no longer than one call: taken piece by piece, given back all at once.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace qw {

class Scratch {
  public:
    ~Scratch() { free_all(); }

    // Forget everything taken. Several blocks become one that would have held them all.
    void reset() {
        if (blocks_.size() > 1) {
            size_t total = 0;
            for (const Block& block : blocks_) total += block.size;
            free_all();
            add_block(total);
        }
        current_ = used_ = 0;
    }

    // Room for `count` values, aligned to 64 bytes, not initialised.
    template <class T>
    T* take(size_t count) {
        const size_t size = (count * sizeof(T) + 63) / 64 * 64;
        while (current_ < blocks_.size() && used_ + size > blocks_[current_].size) current_++, used_ = 0;
        if (current_ == blocks_.size()) add_block(size > SMALLEST ? size : SMALLEST);
        T* piece = reinterpret_cast<T*>(blocks_[current_].data + used_);
        used_ += size;
        return piece;
    }

    // Forgets at its end what was taken since its beginning: for a loop whose rounds need the same again.
    class Scope {
      public:
        explicit Scope(Scratch& scratch)
            : scratch_(scratch), current_(scratch.current_), used_(scratch.used_) {}
        ~Scope() { scratch_.current_ = current_, scratch_.used_ = used_; }
        Scope(const Scope&) = delete;

      private:
        Scratch& scratch_;
        size_t current_, used_;
    };

  private:
    static constexpr size_t SMALLEST = size_t(1) << 20, HUGE_PAGE = size_t(2) << 20;
    struct Block {
        uint8_t* data;
        size_t size;
    };

    // Large ones on huge pages, where the system has them for whoever asks: their first use costs less.
    void add_block(size_t size) {
        const size_t step = size >= HUGE_PAGE ? HUGE_PAGE : 64;
        void* data = std::aligned_alloc(step, (size + step - 1) / step * step);
        if (!data) throw std::bad_alloc();
#ifdef MADV_HUGEPAGE
        if (size >= HUGE_PAGE) madvise(data, (size + step - 1) / step * step, MADV_HUGEPAGE);
#endif
        blocks_.push_back({static_cast<uint8_t*>(data), size});
    }
    void free_all() {
        for (const Block& block : blocks_) std::free(block.data);
        blocks_.clear();
    }

    std::vector<Block> blocks_;
    size_t current_ = 0, used_ = 0; // the block that is taken from, and how much of it
};

} // namespace qw
