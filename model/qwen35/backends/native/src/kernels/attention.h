// Attention of a tile of query rows over one block of keys, and the merge of blocks.
//
// Each block gives a partial softmax of its own (largest score, sum, weighted values); merging them in the
// order of the blocks gives the whole. A row's result then depends neither on the rows beside it, nor on how
// a prompt was cut, nor on which thread took which block. Keys that a row may not see get weight zero, and
// adding zero changes no bit.
#pragma once

#include "../kernels.h"
#include "functions.h"

namespace qw {
namespace QWEN_ISA {

// Widen `count` keys or values to float32 rows of `padded` numbers, zeros behind head_dim.
static void widen(const uint16_t* from, int count, int head_dim, int padded, float* to) {
    for (int key = 0; key < count; key++, from += head_dim, to += padded) {
        for (int i = 0; i < padded; i += LANES) {
            store(to + i, i < head_dim ? load_bf16(from + i, head_dim - i) : set1(0.0f));
        }
    }
}

// Scores of R rows against K keys.
template <int R, int K>
static inline void score(const float* q, const float* k, int padded, float* scores) {
    F8 totals[8];
#pragma GCC unroll 8
    for (int i = 0; i < 8; i++) totals[i] = set1(0.0f);
    for (int i = 0; i < padded; i += LANES) {
        F8 keys[K];
#pragma GCC unroll 8
        for (int j = 0; j < K; j++) keys[j] = load(k + j * padded + i);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
            F8 query = load(q + r * padded + i);
            hold(query);
#pragma GCC unroll 8
            for (int j = 0; j < K; j++) totals[r * K + j] = fma(query, keys[j], totals[r * K + j]);
        }
    }
    float found[8];
    store(found, sums(totals));
    for (int r = 0; r < R; r++) memcpy(scores + r * KEY_BLOCK, found + r * K, K * sizeof(float));
}

// y += weights * values for R rows and 16 dimensions, keys in order.
template <int R>
static inline void weigh(const float* weights, const float* values, int count, int padded, float* y) {
    F8 total[R][2];
    for (int r = 0; r < R; r++) {
        total[r][0] = load(y + r * padded);
        total[r][1] = load(y + r * padded + LANES);
    }
    for (int key = 0; key < count; key++) {
        F8 first = load(values + key * padded), second = load(values + key * padded + LANES);
        for (int r = 0; r < R; r++) {
            F8 weight = set1(weights[r * KEY_BLOCK + key]);
            total[r][0] = fma(weight, first, total[r][0]);
            total[r][1] = fma(weight, second, total[r][1]);
        }
    }
    for (int r = 0; r < R; r++) {
        store(y + r * padded, total[r][0]);
        store(y + r * padded + LANES, total[r][1]);
    }
}

// As many keys at a time as keep eight sums, KEY_TILE in all.
static inline void score_rows(int rows, const float* q, const float* k, int padded, float* scores) {
    switch (rows) {
    case 1:
        for (int key = 0; key < KEY_TILE; key += 8) score<1, 8>(q, k + key * padded, padded, scores + key);
        return;
    case 2:
        for (int key = 0; key < KEY_TILE; key += 4) score<2, 4>(q, k + key * padded, padded, scores + key);
        return;
    case 3:
        for (int key = 0; key < KEY_TILE; key += 2) score<3, 2>(q, k + key * padded, padded, scores + key);
        return;
    default:
        for (int key = 0; key < KEY_TILE; key += 2) score<4, 2>(q, k + key * padded, padded, scores + key);
        return;
    }
}
static inline void weigh_rows(int rows, const float* w, const float* v, int count, int padded, float* y) {
    switch (rows) {
    case 1:
        return weigh<1>(w, v, count, padded, y);
    case 2:
        return weigh<2>(w, v, count, padded, y);
    case 3:
        return weigh<3>(w, v, count, padded, y);
    default:
        return weigh<4>(w, v, count, padded, y);
    }
}

// Scores of a row to weights exp(score - top), zero where the row may not see.
static inline void soften(float* scores, int limit, int num_keys, float* top, float* total) {
    float largest_score = -__builtin_inff();
    F8 tops = set1(largest_score);
    int whole = limit / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) tops = max(tops, load(scores + i));
    if (whole) largest_score = largest(tops);
    for (int i = whole; i < limit; i++) largest_score = scores[i] > largest_score ? scores[i] : largest_score;
    F8 lanes = set1(0.0f);
    for (int i = 0; i < num_keys; i += LANES) {
        int seen = limit - i < 0 ? 0 : limit - i;
        F8 weight = set1(0.0f);
        if (seen > 0) weight = exp(load(scores + i, num_keys - i) - set1(largest_score));
        store(scores + i, weight, num_keys - i);
        for (int j = seen; j < LANES && i + j < num_keys; j++) scores[i + j] = 0.0f;
        lanes = lanes + load(scores + i, num_keys - i);
    }
    *top = largest_score;
    *total = sum(lanes);
}

static void attend(const AttentionTile& tile) {
    const int padded = padded_head(tile.head_dim);
    float* scores = tile.scratch;                             // (rows, KEY_BLOCK)
    float* wide = scores + size_t(tile.num_rows) * KEY_BLOCK; // (KEY_TILE, padded)
    int num_keys = 0;                                         // that some row sees
    for (int r = 0; r < tile.num_rows; r++) num_keys = tile.limits[r] > num_keys ? tile.limits[r] : num_keys;

    for (int first = 0; first < num_keys; first += KEY_TILE) {
        const int count = num_keys - first < KEY_TILE ? num_keys - first : KEY_TILE;
        widen(tile.k + size_t(first) * tile.head_dim, count, tile.head_dim, padded, wide);
        // What lies beyond num_keys is scored too, and never read.
        memset(wide + size_t(count) * padded, 0, size_t(KEY_TILE - count) * padded * sizeof(float));
        for (int r = 0; r < tile.num_rows; r += ROW_TILE) {
            score_rows(tile.num_rows - r, tile.q + size_t(r) * padded, wide, padded,
                       scores + size_t(r) * KEY_BLOCK + first);
        }
    }
    for (int r = 0; r < tile.num_rows; r++) {
        soften(scores + size_t(r) * KEY_BLOCK, tile.limits[r], num_keys, tile.top + r, tile.total + r);
    }
    memset(tile.y, 0, size_t(tile.num_rows) * padded * sizeof(float));
    for (int first = 0; first < num_keys; first += KEY_TILE) {
        const int count = num_keys - first < KEY_TILE ? num_keys - first : KEY_TILE;
        widen(tile.v + size_t(first) * tile.head_dim, count, tile.head_dim, padded, wide);
        for (int r = 0; r < tile.num_rows; r += ROW_TILE) {
            for (int i = 0; i < padded; i += 2 * LANES) {
                weigh_rows(tile.num_rows - r, scores + size_t(r) * KEY_BLOCK + first, wide + i, count, padded,
                           tile.y + size_t(r) * padded + i);
            }
        }
    }
}

static void merge(float* top, float* total, float* y, float tile_top, float tile_total, const float* tile_y,
                  int head_dim) {
    if (tile_total == 0.0f) return; // a block that this row does not see
    const float both = *top > tile_top ? *top : tile_top;
    const float lanes[LANES] = {*top - both, tile_top - both};
    float factors[LANES];
    store(factors, exp(load(lanes)));
    const float old_factor = *total == 0.0f ? 0.0f : factors[0];
    *total = __builtin_fmaf(tile_total, factors[1], *total * old_factor);
    *top = both;
    F8 keep = set1(old_factor), take = set1(factors[1]);
    for (int i = 0; i < head_dim; i += LANES) {
        F8 sum_of_both = fma(load(tile_y + i, head_dim - i), take, load(y + i, head_dim - i) * keep);
        store(y + i, sum_of_both, head_dim - i);
    }
}

} // namespace QWEN_ISA
} // namespace qw
