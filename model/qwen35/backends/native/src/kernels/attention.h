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

constexpr int LINE = 32; // bf16 numbers in a cache line

// Eight keys or values as floats, where they lie or where they were widened to.
static inline F8 load_any(const float* p) { return load(p); }
static inline F8 load_any(const uint16_t* p) { return load_bf16(p); }

// Group `number` of rows that are taken together: as few as QUERY_GROUP allows, of sizes as even as can be.
struct RowGroup {
    int first, count;
    RowGroup(int num_rows, int number) {
        const int num_groups = (num_rows + QUERY_GROUP - 1) / QUERY_GROUP;
        first = num_rows * number / num_groups;
        count = num_rows * (number + 1) / num_groups - first;
    }
};

// Let the cache fetch one of `num_parts` parts of `count` numbers.
static inline void fetch(const uint16_t* p, int count, int part, int num_parts) {
    const int first = count * part / num_parts / LINE * LINE, last = count * (part + 1) / num_parts;
    for (int i = first; i < last; i += LINE) __builtin_prefetch(p + i, 0, 2);
}

// Widen columns [first, first + width) of `count` keys or values: rows of `width` floats, with zeros behind
// head_dim.
static void widen(const uint16_t* from, int count, int head_dim, int first, int width, float* to) {
    for (int key = 0; key < count; key++, from += head_dim, to += width) {
        for (int i = 0; i < width; i += LANES) {
            const int at = first + i;
            store(to + i, at < head_dim ? load_bf16(from + at, head_dim - at) : set1(0.0f));
        }
    }
}

// Scores of R rows against K keys of `padded` numbers. Where keys are read as they lie, those of the next
// tile are fetched meanwhile, and the values of these, which lie `to_values` behind them.
template <int R, int K, class Key>
static inline void score(const float* q, const Key* k, int padded, ptrdiff_t to_values, float* scores) {
    F8 totals[16];
#pragma GCC unroll 16
    for (int i = 0; i < 16; i++) totals[i] = set1(0.0f);
    for (int i = 0; i < padded; i += LANES) {
        if (sizeof(Key) == sizeof(uint16_t) && i % LINE == 0) {
#pragma GCC unroll 8
            for (int j = 0; j < K; j++) {
                __builtin_prefetch(k + (KEY_TILE + j) * padded + i, 0, 3);
                __builtin_prefetch(k + to_values + j * padded + i, 0, 2);
            }
        }
        F8 keys[K];
#pragma GCC unroll 8
        for (int j = 0; j < K; j++) keys[j] = load_any(k + j * padded + i);
#pragma GCC unroll 6
        for (int r = 0; r < R; r++) {
            F8 query = load(q + r * padded + i);
            hold(query);
#pragma GCC unroll 8
            for (int j = 0; j < K; j++) totals[r * K + j] = fma(query, keys[j], totals[r * K + j]);
        }
    }
    float found[16];
    store(found, sums(totals));
    if (R * K > 8) store(found + 8, sums(totals + 8));
    for (int r = 0; r < R; r++) memcpy(scores + r * KEY_BLOCK, found + r * K, K * sizeof(float));
}

// y += weights * values for R rows and 16 dimensions, keys in order; `stride` from one key's values to the
// next.
template <int R, class Value>
static inline void weigh(const float* weights, const Value* values, int count, int stride, int padded,
                         float* y) {
    F8 total[R][2];
    for (int r = 0; r < R; r++) {
        total[r][0] = load(y + r * padded);
        total[r][1] = load(y + r * padded + LANES);
    }
    for (int key = 0; key < count; key++) {
        F8 first = load_any(values + key * stride), second = load_any(values + key * stride + LANES);
#pragma GCC unroll 6
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

// KEY_TILE keys, as many at a time as keep eight sums or twelve in registers.
template <int R, int K, class Key>
static inline void score_tile(const float* q, const Key* k, int padded, ptrdiff_t to_values, float* scores) {
    for (int key = 0; key < KEY_TILE; key += K) {
        score<R, K>(q, k + key * padded, padded, to_values, scores + key);
    }
}
template <class Key>
static inline void score_rows(int rows, const float* q, const Key* k, int padded, ptrdiff_t to_values,
                              float* scores) {
    switch (rows) {
    case 1:
        return score_tile<1, 8>(q, k, padded, to_values, scores);
    case 2:
        return score_tile<2, 4>(q, k, padded, to_values, scores);
    case 3:
        return score_tile<3, 4>(q, k, padded, to_values, scores);
    case 4:
        return score_tile<4, 2>(q, k, padded, to_values, scores);
    case 5:
        return score_tile<5, 2>(q, k, padded, to_values, scores);
    default:
        return score_tile<6, 2>(q, k, padded, to_values, scores);
    }
}
template <class Value>
static inline void weigh_rows(int rows, const float* weights, const Value* values, int count, int stride,
                              int padded, float* y) {
    switch (rows) {
    case 1:
        return weigh<1>(weights, values, count, stride, padded, y);
    case 2:
        return weigh<2>(weights, values, count, stride, padded, y);
    case 3:
        return weigh<3>(weights, values, count, stride, padded, y);
    case 4:
        return weigh<4>(weights, values, count, stride, padded, y);
    case 5:
        return weigh<5>(weights, values, count, stride, padded, y);
    default:
        return weigh<6>(weights, values, count, stride, padded, y);
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

// Keys to scores, values to y: where many rows use them, widened aside first; where few do, as they lie, as
// to widen them would cost as much.
static void attend_many(const AttentionTile& tile, int num_keys, int num_groups) {
    const int Dh = tile.head_dim, padded = padded_head(Dh), tile_values = KEY_TILE * Dh;
    float* scores = tile.scratch;                             // (rows, KEY_BLOCK)
    float* wide = scores + size_t(tile.num_rows) * KEY_BLOCK; // (KEY_TILE, padded), then (KEY_BLOCK, 16)
    for (int first = 0; first < num_keys; first += KEY_TILE) {
        const uint16_t *keys = tile.k + size_t(first) * Dh, *values = tile.v + size_t(first) * Dh;
        widen(keys, KEY_TILE, Dh, 0, padded, wide);
        for (int i = 0; i < num_groups; i++) {
            const RowGroup group(tile.num_rows, i);
            fetch(keys + tile_values, tile_values, i, num_groups);
            fetch(values, tile_values, i, num_groups);
            score_rows(group.count, tile.q + size_t(group.first) * padded, wide, padded, 0,
                       scores + size_t(group.first) * KEY_BLOCK + first);
        }
    }
    for (int r = 0; r < tile.num_rows; r++) {
        soften(scores + size_t(r) * KEY_BLOCK, tile.limits[r], num_keys, tile.top + r, tile.total + r);
    }
    for (int column = 0; column < padded; column += 2 * LANES) {
        widen(tile.v, num_keys, Dh, column, 2 * LANES, wide);
        for (int i = 0; i < num_groups; i++) {
            const RowGroup group(tile.num_rows, i);
            weigh_rows(group.count, scores + size_t(group.first) * KEY_BLOCK, wide, num_keys, 2 * LANES,
                       padded, tile.y + size_t(group.first) * padded + column);
        }
    }
}
static void attend_few(const AttentionTile& tile, int num_keys, int num_groups) {
    const int Dh = tile.head_dim;
    float* scores = tile.scratch; // (rows, KEY_BLOCK)
    for (int first = 0; first < num_keys; first += KEY_TILE) {
        for (int i = 0; i < num_groups; i++) {
            const RowGroup group(tile.num_rows, i);
            score_rows(group.count, tile.q + size_t(group.first) * Dh, tile.k + size_t(first) * Dh, Dh,
                       tile.v - tile.k, scores + size_t(group.first) * KEY_BLOCK + first);
        }
    }
    for (int r = 0; r < tile.num_rows; r++) {
        soften(scores + size_t(r) * KEY_BLOCK, tile.limits[r], num_keys, tile.top + r, tile.total + r);
    }
    for (int first = 0; first < num_keys; first += KEY_TILE) {
        const int count = num_keys - first < KEY_TILE ? num_keys - first : KEY_TILE;
        for (int column = 0; column < Dh; column += 2 * LANES) {
            for (int i = 0; i < num_groups; i++) {
                const RowGroup group(tile.num_rows, i);
                weigh_rows(group.count, scores + size_t(group.first) * KEY_BLOCK + first,
                           tile.v + size_t(first) * Dh + column, count, Dh, Dh,
                           tile.y + size_t(group.first) * Dh + column);
            }
        }
    }
}

// What lies beyond the keys that are seen, in their tile, is scored too, and never read.
static void attend(const AttentionTile& tile) {
    const int padded = padded_head(tile.head_dim);
    const int num_groups = (tile.num_rows + QUERY_GROUP - 1) / QUERY_GROUP;
    int num_keys = 0; // that some row sees
    for (int r = 0; r < tile.num_rows; r++) num_keys = tile.limits[r] > num_keys ? tile.limits[r] : num_keys;
    memset(tile.y, 0, size_t(tile.num_rows) * padded * sizeof(float));
    if (tile.num_rows <= FEW_QUERIES && padded == tile.head_dim) {
        attend_few(tile, num_keys, num_groups);
    } else {
        attend_many(tile, num_keys, num_groups);
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
