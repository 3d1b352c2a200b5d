// Gated full attention over a KV cache in blocks.
//
// New keys and values go straight into the caller's blocks, rounded to bf16, and are read from there like all
// others. Work is cut into tiles of query rows (the heads that share a key head, times a few tokens) and,
// where there are few rows, into single key blocks whose partial results are merged in order.
#include "blocks.h"

#include <cmath>

namespace qw {

namespace {

constexpr int TILE_TARGET = 96; // query rows of a tile, which share one reading of the keys

// One work item: tokens [first, last) of the call, one key head, key blocks [first_block, last_block).
struct Tile {
    int seq, first, last, kv_head, first_block, last_block;
};

// A row's softmax so far.
struct Partial {
    float top, total;
};

class Attention {
  public:
    Attention(Context& context, const QwAttention& layer, const QwBatch& batch, const QwKeyValues* blocks)
        : context_(context), layer_(layer), batch_(batch), blocks_(blocks),
          group_(layer.num_heads / layer.num_kv_heads), padded_(padded_head(layer.head_dim)) {}

    // Norm, turn and store the keys and values of row m; norm, turn and scale its queries in place.
    void prepare_row(int seq, int m, float* qg, float* k, const float* v) const;
    // `qg` (M, Hq, 2 Dh) of prepared queries; y (M, Hq * Dh), before the gate.
    void run(const Rows<float>& qg, const Rows<float>& y) const;

  private:
    void run_tile(const Tile& tile, const Rows<float>& qg, float* scratch, Partial* partials,
                  float* merged) const;
    size_t tile_floats(int num_rows) const {
        const size_t rest = size_t(num_rows) * (2 * padded_ + 3);
        return attention_scratch_floats(num_rows, layer_.head_dim) + (rest + 15) / 16 * 16;
    }

    Context& context_;
    const QwAttention& layer_;
    const QwBatch& batch_;
    const QwKeyValues* blocks_;
    int group_, padded_; // query heads per key head, floats of a padded head
};

void Attention::prepare_row(int seq, int m, float* qg, float* k, const float* v) const {
    const Kernels& kernels = *context_.kernels;
    const int Dh = layer_.head_dim, half = layer_.rotary_dim / 2;
    const float *cos = batch_.cos + size_t(m) * half, *sin = batch_.sin + size_t(m) * half;
    const float scale = 1.0f / std::sqrt(float(Dh));
    for (int head = 0; head < layer_.num_heads; head++) {
        float* q = qg + size_t(head) * 2 * Dh;
        kernels.rms_norm(q, layer_.q_norm, layer_.eps, Dh, q);
        kernels.rotate(q, cos, sin, half);
        for (int i = 0; i < Dh; i++) q[i] *= scale;
    }
    const int token = batch_.past[seq] + m - batch_.starts[seq];
    const int block = token / KEY_BLOCK;
    for (int head = 0; head < layer_.num_kv_heads; head++) {
        const size_t at = (size_t(head) * KEY_BLOCK + token % KEY_BLOCK) * Dh;
        float* key = k + head * Dh;
        kernels.rms_norm(key, layer_.k_norm, layer_.eps, Dh, key);
        kernels.rotate(key, cos, sin, half);
        kernels.to_bf16(key, Dh, blocks_[seq].k[block] + at);
        kernels.to_bf16(v + head * Dh, Dh, blocks_[seq].v[block] + at);
    }
}

// `partials` and `merged` (rows, padded) receive the softmax over the tile's blocks; row = token * group +
// head.
void Attention::run_tile(const Tile& tile, const Rows<float>& qg, float* scratch, Partial* partials,
                         float* merged) const {
    const int Dh = layer_.head_dim, num_tokens = tile.last - tile.first, num_rows = num_tokens * group_;
    const size_t values = size_t(num_rows) * padded_;
    float* inner = scratch; // whole cache lines first: all vectors are aligned
    float *q = inner + attention_scratch_floats(num_rows, Dh), *y = q + values, *top = y + values;
    float* total = top + num_rows;
    int* limits = reinterpret_cast<int*>(total + num_rows);
    for (int row = 0; row < num_rows; row++) {
        const int m = tile.first + row / group_, head = tile.kv_head * group_ + row % group_;
        const float* from = qg[m] + size_t(head) * 2 * Dh;
        std::copy(from, from + Dh, q + size_t(row) * padded_);
        std::fill(q + size_t(row) * padded_ + Dh, q + size_t(row + 1) * padded_, 0.0f);
        partials[row] = {-INFINITY, 0.0f};
    }
    std::fill(merged, merged + values, 0.0f);
    const size_t head_at = size_t(tile.kv_head) * KEY_BLOCK * Dh;
    const int past = batch_.past[tile.seq] - batch_.starts[tile.seq]; // row m is token past + m
    for (int block = tile.first_block; block < tile.last_block; block++) {
        for (int row = 0; row < num_rows; row++) {
            const int seen = past + tile.first + row / group_ + 1 - block * KEY_BLOCK;
            limits[row] = std::max(0, std::min(KEY_BLOCK, seen));
        }
        const QwKeyValues& blocks = blocks_[tile.seq];
        context_.kernels->attend({num_rows, Dh, q, blocks.k[block] + head_at, blocks.v[block] + head_at,
                                  limits, inner, top, total, y});
        for (int row = 0; row < num_rows; row++) {
            context_.kernels->merge(&partials[row].top, &partials[row].total, merged + size_t(row) * padded_,
                                    top[row], total[row], y + size_t(row) * padded_, Dh);
        }
    }
}

void Attention::run(const Rows<float>& qg, const Rows<float>& y) const {
    const int Dh = layer_.head_dim;
    const int tile_tokens = std::max(1, TILE_TARGET / group_);
    // Long pasts of few rows are cut by key block as well: a tile of one token is one block.
    int num_tiles = 0;
    for (int seq = 0; seq < batch_.num_seqs; seq++) {
        const int count = batch_.starts[seq + 1] - batch_.starts[seq];
        const int num_blocks = (batch_.past[seq] + count + KEY_BLOCK - 1) / KEY_BLOCK;
        num_tiles +=
            layer_.num_kv_heads * (count == 1 ? num_blocks : (count + tile_tokens - 1) / tile_tokens);
    }
    Tile* tiles = context_.scratch.take<Tile>(num_tiles);
    int at = 0;
    for (int seq = 0; seq < batch_.num_seqs; seq++) {
        const int start = batch_.starts[seq], end = batch_.starts[seq + 1];
        for (int kv_head = 0; kv_head < layer_.num_kv_heads; kv_head++) {
            // The last tiles see the most keys: they come first, so that no thread ends with a long one.
            for (int first = start + (end - start - 1) / tile_tokens * tile_tokens; first >= start;
                 first -= tile_tokens) {
                const int last = std::min(end, first + tile_tokens);
                const int blocks = (batch_.past[seq] + last - start + KEY_BLOCK - 1) / KEY_BLOCK;
                if (end - start > 1) {
                    tiles[at++] = {seq, first, last, kv_head, 0, blocks};
                } else {
                    for (int block = 0; block < blocks; block++) {
                        tiles[at++] = {seq, first, last, kv_head, block, block + 1};
                    }
                }
            }
        }
    }
    const int max_rows = tile_tokens * group_;
    const size_t floats = tile_floats(max_rows);
    float* scratch = context_.scratch.take<float>(floats * context_.pool.num_threads());
    Partial* partials = context_.scratch.take<Partial>(size_t(num_tiles) * max_rows);
    float* merged = context_.scratch.take<float>(size_t(num_tiles) * max_rows * padded_);
    context_.pool.run(num_tiles, [&](int item, int thread) {
        run_tile(tiles[item], qg, scratch + floats * thread, partials + size_t(item) * max_rows,
                 merged + size_t(item) * max_rows * padded_);
    });
    // Tiles of the same rows follow each other, in the order of their key blocks.
    for_rows(context_, num_tiles, 1, [&](int item, int, int) {
        const Tile& tile = tiles[item];
        if (tile.last - tile.first == 1 && tile.first_block > 0) return;
        const int num_rows = (tile.last - tile.first) * group_;
        for (int row = 0; row < num_rows; row++) {
            Partial whole = partials[size_t(item) * max_rows + row];
            float* sum = merged + (size_t(item) * max_rows + row) * padded_;
            for (int next = item + 1; next < num_tiles && tiles[next].first_block > 0; next++) {
                const Partial& part = partials[size_t(next) * max_rows + row];
                context_.kernels->merge(&whole.top, &whole.total, sum, part.top, part.total,
                                        merged + (size_t(next) * max_rows + row) * padded_, Dh);
            }
            const int m = tile.first + row / group_, head = tile.kv_head * group_ + row % group_;
            for (int i = 0; i < Dh; i++) y[m][head * Dh + i] = sum[i] / whole.total;
        }
    });
}

} // namespace

void run_attention(Context& context, const QwAttention& layer, const QwBatch& batch,
                   const QwKeyValues* blocks, float* x, float* h, int32_t* chosen, float* weights) {
    const int M = batch.num_rows, Dh = layer.head_dim, width = layer.num_heads * Dh;
    const Normed normed = norm_rows(context, layer.input_norm, layer.eps, layer.hidden, x, M);
    const Rows<float> qg = take_floats(context, M, 2 * width);
    const Rows<float> k = take_floats(context, M, layer.num_kv_heads * Dh);
    const Rows<float> v = take_floats(context, M, layer.num_kv_heads * Dh);
    const Inputs inputs = inputs_of(normed.quantised, normed.floats);
    const Product products[] = {
        {layer.q, inputs, qg.rows}, {layer.k, inputs, k.rows}, {layer.v, inputs, v.rows}};
    multiply(context, products, 3);

    const Attention attention(context, layer, batch, blocks);
    int32_t* seq_of_row = context.scratch.take<int32_t>(M);
    for (int seq = 0; seq < batch.num_seqs; seq++) {
        std::fill(seq_of_row + batch.starts[seq], seq_of_row + batch.starts[seq + 1], seq);
    }
    for_rows(context, M, 4, [&](int first, int last, int) {
        for (int m = first; m < last; m++) attention.prepare_row(seq_of_row[m], m, qg[m], k[m], v[m]);
    });
    const Rows<float> y = take_floats(context, M, width);
    attention.run(qg, y);

    const Rows<uint8_t> gated = take_quantised(context, M, width);
    for_rows(context, M, 4, [&](int first, int last, int) {
        for (int m = first; m < last; m++) {
            for (int head = 0; head < layer.num_heads; head++) {
                context.kernels->gate(y[m] + head * Dh, qg[m] + size_t(head) * 2 * Dh + Dh, Dh);
            }
            quantise_row(context, y[m], width, gated[m]);
        }
    });
    const Rows<float> out = take_floats(context, M, layer.hidden);
    const Product product{layer.out, inputs_of(gated, y), out.rows};
    multiply(context, &product, 1);
    finish_mixer(context, layer.after, layer.eps, layer.hidden, out, x, h, chosen, weights);
}

} // namespace qw
