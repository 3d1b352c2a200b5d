// What every block needs: kernels, threads, scratch memory, and the tools built on them.
#pragma once

#include <algorithm>

#include "kernels.h"
#include "pool.h"
#include "scratch.h"

struct QwContext {
    const qw::Kernels* kernels;
    qw::Pool pool;
    qw::Scratch scratch;

    QwContext(int num_threads, const qw::Kernels* chosen) : kernels(chosen), pool(num_threads) {}
};

namespace qw {

using Context = QwContext;

// M rows in scratch memory, with the pointers that matmul takes.
template <class T>
struct Rows {
    T** rows;
    int num_rows;
    T* operator[](int m) const { return rows[m]; }
    T* const* from(int m) const { return rows + m; }
};

template <class T>
Rows<T> point_at(Context& context, T* data, size_t stride, int num_rows) {
    T** rows = context.scratch.take<T*>(num_rows);
    for (int m = 0; m < num_rows; m++) rows[m] = data + m * stride;
    return {rows, num_rows};
}

inline Rows<float> take_floats(Context& context, int num_rows, int width) {
    const size_t stride = round_up(width, TILE_ROWS);
    return point_at(context, context.scratch.take<float>(stride * num_rows), stride, num_rows);
}

// Room for M quantised rows of k values.
inline Rows<uint8_t> take_quantised(Context& context, int num_rows, int k) {
    const size_t stride = RowLayout(k).bytes();
    return point_at(context, context.scratch.take<uint8_t>(stride * num_rows), stride, num_rows);
}

inline void quantise_row(Context& context, const float* x, int k, uint8_t* row) {
    context.kernels->quantise(x, k, k, 0, RowLayout(k).num_groups, row);
}

// Calls body(first, last, thread) on runs of rows, at most `step` each, of few rows fewer: every thread gets
// some. Short rows want larger steps.
template <class Body>
void for_rows(Context& context, int num_rows, int step, const Body& body) {
    const int num_threads = context.pool.num_threads();
    step = std::min(step, std::max(1, (num_rows + num_threads - 1) / num_threads));
    const int num_items = (num_rows + step - 1) / step;
    context.pool.run(num_items, [&](int item, int thread) {
        body(item * step, std::min(num_rows, (item + 1) * step), thread);
    });
}

} // namespace qw
