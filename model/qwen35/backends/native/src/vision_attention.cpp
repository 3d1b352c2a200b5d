// Attention within one frame of a picture, in int8.
//
// A frame of a large picture has thousands of patches that all see each other: in float32 that costs more
// than all matrices of the encoder. So a head's keys, and its values turned over, are packed like a q8
// matrix, and scores and answers are two products of the ordinary kind. Keys are packed without their mean:
// that moves all scores of a query alike, which a softmax does not feel, and what is left rounds finer (as in
// SageAttention). Scores live for one tile of queries: memory grows with the number of patches, not with its
// square.
#include "vision_attention.h"

namespace qw {

namespace {

constexpr int QUERY_TILE = 16;

// One head's keys (count, Dh) and values, turned over (Dh, count).
struct PackedHead {
    Matrix k, v;
};

uint8_t* data_of(const Matrix& w) { return static_cast<uint8_t*>(const_cast<void*>(w.data)); }

PackedHead take_head(Context& context, int count, int head_dim) {
    const auto take = [&](int n, int k) {
        Matrix w{nullptr, FORMAT_Q8, n, k, 0};
        w.data = context.scratch.take<uint8_t>(row_block_bytes(w) * num_row_blocks(n));
        return w;
    };
    return {take(count, head_dim), take(head_dim, count)};
}

void pack_head(const Kernels& kernels, const PackedHead& head, float* const* x, int k_at, int v_at) {
    const int count = head.k.n, head_dim = head.k.k;
    float mean[512] = {};
    for (int key = 0; key < count; key++) {
        for (int i = 0; i < head_dim; i++) mean[i] += x[key][k_at + i];
    }
    for (int i = 0; i < head_dim; i++) mean[i] /= float(count);
    kernels.pack_keys(x, k_at, mean, count, head_dim, data_of(head.k));
    kernels.pack_values(x, v_at, count, head_dim, data_of(head.v));
}

// What a thread needs for one tile of queries.
struct TileScratch {
    Rows<uint8_t> queries, weights;
    Rows<float> scores;
};

void attend_tile(Context& context, const PackedHead& head, int num_rows, float* const* q, float* const* y,
                 int at, const TileScratch& scratch) {
    const Kernels& kernels = *context.kernels;
    const int count = head.k.n, head_dim = head.k.k;
    const auto rows_of = [](const Rows<uint8_t>& rows) {
        return reinterpret_cast<const void* const*>(rows.rows);
    };
    for (int r = 0; r < num_rows; r++) quantise_row(context, q[r] + at, head_dim, scratch.queries[r]);
    kernels.matmul(head.k, 0, num_row_blocks(count), rows_of(scratch.queries), num_rows, scratch.scores.rows);
    float totals[QUERY_TILE];
    float* out[QUERY_TILE];
    for (int r = 0; r < num_rows; r++) {
        totals[r] = kernels.exponentiate(scratch.scores[r], count);
        quantise_row(context, scratch.scores[r], count, scratch.weights[r]);
        out[r] = y[r] + at;
    }
    kernels.matmul(head.v, 0, num_row_blocks(head_dim), rows_of(scratch.weights), num_rows, out);
    for (int r = 0; r < num_rows; r++) {
        for (int i = 0; i < head_dim; i++) out[r][i] /= totals[r];
    }
}

} // namespace

void attend_frame(Context& context, const Frame& frame, int num_heads, int head_dim, const Rows<float>& qkv,
                  const Rows<float>& y) {
    const int d = num_heads * head_dim, count = frame.count;
    PackedHead* heads = context.scratch.take<PackedHead>(num_heads);
    for (int head = 0; head < num_heads; head++) heads[head] = take_head(context, count, head_dim);
    context.pool.run(num_heads, [&](int head, int) {
        pack_head(*context.kernels, heads[head], qkv.from(frame.start), d + head * head_dim, 2 * d + head * head_dim);
    });
    const int num_threads = context.pool.num_threads();
    TileScratch* scratch = context.scratch.take<TileScratch>(num_threads);
    for (int thread = 0; thread < num_threads; thread++) {
        scratch[thread] = {take_quantised(context, QUERY_TILE, head_dim),
                           take_quantised(context, QUERY_TILE, count),
                           take_floats(context, QUERY_TILE, count)};
    }
    const int tiles = (count + QUERY_TILE - 1) / QUERY_TILE;
    context.pool.run(num_heads * tiles, [&](int item, int thread) {
        const int head = item / tiles, first = item % tiles * QUERY_TILE, row = frame.start + first;
        attend_tile(context, heads[head], std::min(QUERY_TILE, count - first), qkv.from(row), y.from(row),
                    head * head_dim, scratch[thread]);
    });
}

} // namespace qw
