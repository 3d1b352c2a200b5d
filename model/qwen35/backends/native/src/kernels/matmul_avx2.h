// The integer tiles on AVX2, which knows no exact int8 dot product but maddubs: unsigned times signed bytes,
// neighbours added, in int16.
//
// q4: weights are stored as q + 8 in 0..15. A group puts sixteen products in each int16 lane, at most
// 16 * 15 * 127 = 30,480, so a whole group is added up in int16; the lane starts from -8 times the sum of its
// activations (the row's `bias`), which takes the 8 back. Overflow on the way wraps and unwraps.
// q8: a weight is 16 * (high - 8) + low, both nibbles unsigned, so it is two such groups.
#pragma once

#include "matmul.h"

namespace qw {
namespace QWEN_ISA {

static inline __m256i four_inputs(const int8_t* q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm256_set1_epi32(four);
}

// Compilers reorder sums of integers, and keep products in memory for it: this one has its place.
static inline void pin(__m256i& sum) { asm("" : "+x"(sum)); }

static inline __m256i line_of(const uint8_t* lines, int line, int half) {
    return _mm256_load_si256(reinterpret_cast<const __m256i*>(lines + line * 64 + half * 32));
}

// The group's integers become part of the float chain of one row, eight outputs.
static inline void add_group(__m256i dot, __m256 weight_scale, float row_scale, float* tile) {
    __m256 scale = _mm256_mul_ps(weight_scale, _mm256_set1_ps(row_scale));
    _mm256_store_ps(tile, _mm256_fmadd_ps(_mm256_cvtepi32_ps(dot), scale, _mm256_load_ps(tile)));
}

// Bytes that the first rows of a block ask for ahead: measured on Zen3, 13 GB/s a thread become 16 to 19.
constexpr int PREFETCH_Q4 = 2048, PREFETCH_Q8 = 1024;

static inline void fetch_line(const uint8_t* at) {
    _mm_prefetch(reinterpret_cast<const char*>(at), _MM_HINT_T0);
}

struct WeightScales {
    __m256 half[2];
};
static inline WeightScales group_scales(const uint8_t* block, int group) {
    const __m128i* halves = reinterpret_cast<const __m128i*>(block + group * TILE_ROWS * 2);
    return {{_mm256_cvtph_ps(_mm_load_si128(halves)), _mm256_cvtph_ps(_mm_load_si128(halves + 1))}};
}

// One q4 group (0 or 1 of its block) for R rows. `tiles` is (R, 16) float. The FIRST rows that come to a block
// ask for one that comes after it; the others find all in the cache.
template <int R, bool FIRST>
static inline void group_q4(const uint8_t* block, int group, const RowLayout& layout,
                            const uint8_t* const* rows, int g, float* tiles) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const uint8_t* lines = block + SCALE_BYTES;
    const int8_t* q[R];
    __m256i pairs[R][2];
    for (int r = 0; r < R; r++) {
        q[r] = layout.q(rows[r]) + g * GROUP;
        pairs[r][0] = pairs[r][1] = _mm256_set1_epi32(layout.bias(rows[r])[g]);
    }
    if (FIRST && group) fetch_line(block + PREFETCH_Q4 + 8 * 64);
#pragma GCC unroll 8
    for (int j = 0; j < 8; j++) {
        if (FIRST && !group) fetch_line(block + PREFETCH_Q4 + j * 64);
        __m256i first = line_of(lines, j, 0), second = line_of(lines, j, 1);
        if (group) first = _mm256_srli_epi16(first, 4), second = _mm256_srli_epi16(second, 4);
        first = _mm256_and_si256(first, low);
        second = _mm256_and_si256(second, low);
        for (int r = 0; r < R; r++) {
            __m256i inputs = four_inputs(q[r] + 4 * j);
            pairs[r][0] = _mm256_add_epi16(pairs[r][0], _mm256_maddubs_epi16(first, inputs));
            pairs[r][1] = _mm256_add_epi16(pairs[r][1], _mm256_maddubs_epi16(second, inputs));
            pin(pairs[r][0]), pin(pairs[r][1]);
        }
    }
    WeightScales scales = group_scales(block, group);
    for (int r = 0; r < R; r++) {
        for (int half = 0; half < 2; half++) {
            add_group(_mm256_madd_epi16(pairs[r][half], ones), scales.half[half], layout.scale(rows[r])[g],
                      tiles + r * TILE_ROWS + half * LANES);
        }
    }
}

// Likewise q8, eight outputs at a time: two int16 sums per row instead of one.
template <int R, bool FIRST>
static inline void group_q8(const uint8_t* block, int group, const RowLayout& layout,
                            const uint8_t* const* rows, int g, float* tiles) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1), sixteens = _mm256_set1_epi16(16);
    const __m256i flip = _mm256_set1_epi8(int8_t(0x80)); // high nibble -8..7 becomes 0..15
    const uint8_t* lines = block + SCALE_BYTES + group * 8 * 64;
    const int8_t* q[R];
    for (int r = 0; r < R; r++) q[r] = layout.q(rows[r]) + g * GROUP;
    WeightScales scales = group_scales(block, group);
    for (int half = 0; half < 2; half++) {
        asm volatile("" ::: "memory"); // the inputs are read again: held, they would fill all registers
        __m256i lows[R], highs[R];
        for (int r = 0; r < R; r++) {
            lows[r] = _mm256_setzero_si256();
            highs[r] = _mm256_set1_epi32(layout.bias(rows[r])[g]);
        }
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            if (FIRST && !half) fetch_line(lines + PREFETCH_Q8 + j * 64);
            __m256i weights = line_of(lines, j, half);
            __m256i low_part = _mm256_and_si256(weights, low);
            __m256i high_part = _mm256_xor_si256(weights, flip);
            high_part = _mm256_and_si256(_mm256_srli_epi16(high_part, 4), low);
            for (int r = 0; r < R; r++) {
                __m256i inputs = four_inputs(q[r] + 4 * j);
                lows[r] = _mm256_add_epi16(lows[r], _mm256_maddubs_epi16(low_part, inputs));
                highs[r] = _mm256_add_epi16(highs[r], _mm256_maddubs_epi16(high_part, inputs));
                pin(lows[r]), pin(highs[r]);
            }
        }
        for (int r = 0; r < R; r++) {
            __m256i dot =
                _mm256_add_epi32(_mm256_madd_epi16(lows[r], ones), _mm256_madd_epi16(highs[r], sixteens));
            add_group(dot, scales.half[half], layout.scale(rows[r])[g], tiles + r * TILE_ROWS + half * LANES);
        }
    }
}

// A single row, as in decoding, reads each weight once: both q4 groups of a block come from one load of its
// lines, and the float chains stay in registers.
static inline void single_q4(const uint8_t* blocks, const RowLayout& layout, const uint8_t* row,
                             float* tile) {
    const __m256i low = _mm256_set1_epi8(15), ones = _mm256_set1_epi16(1);
    const int8_t* q = layout.q(row);
    __m256 totals[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int g = 0; g < layout.num_groups; g += 2, blocks += Q4_BLOCK_BYTES, q += 2 * GROUP) {
        const __m256i biases[2] = {_mm256_set1_epi32(layout.bias(row)[g]),
                                   _mm256_set1_epi32(layout.bias(row)[g + 1])};
        __m256i pairs[2][2] = {{biases[0], biases[0]}, {biases[1], biases[1]}}; // [group][half]
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const __m256i first = four_inputs(q + 4 * j), second = four_inputs(q + GROUP + 4 * j);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                if (!half) fetch_line(blocks + PREFETCH_Q4 + j * 64);
                const __m256i line = line_of(blocks + SCALE_BYTES, j, half);
                const __m256i lows = _mm256_and_si256(line, low);
                const __m256i highs = _mm256_and_si256(_mm256_srli_epi16(line, 4), low);
                pairs[0][half] = _mm256_add_epi16(pairs[0][half], _mm256_maddubs_epi16(lows, first));
                pairs[1][half] = _mm256_add_epi16(pairs[1][half], _mm256_maddubs_epi16(highs, second));
                pin(pairs[0][half]), pin(pairs[1][half]);
            }
        }
#pragma GCC unroll 2
        for (int group = 0; group < 2; group++) {
            const WeightScales scales = group_scales(blocks, group);
            const __m256 row_scale = _mm256_set1_ps(layout.scale(row)[g + group]);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                const __m256 dot = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs[group][half], ones));
                totals[half] =
                    _mm256_fmadd_ps(dot, _mm256_mul_ps(scales.half[half], row_scale), totals[half]);
            }
        }
    }
    _mm256_store_ps(tile, totals[0]);
    _mm256_store_ps(tile + LANES, totals[1]);
}

// Here the sign of a weight is moved to the input: fewer steps than two nibbles where no other row shares
// them.
static inline void single_q8(const uint8_t* blocks, const RowLayout& layout, const uint8_t* row,
                             float* tile) {
    const __m256i ones = _mm256_set1_epi16(1);
    const int8_t* q = layout.q(row);
    __m256 totals[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};
    for (int g = 0; g < layout.num_groups; g++, q += GROUP) {
        const uint8_t* block = blocks + size_t(g / 2) * Q8_BLOCK_BYTES;
        const uint8_t* lines = block + SCALE_BYTES + g % 2 * 8 * 64;
        __m256i dots[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const __m256i inputs = four_inputs(q + 4 * j);
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++) {
                if (!half) fetch_line(lines + PREFETCH_Q8 + j * 64);
                const __m256i line = line_of(lines, j, half);
                const __m256i products =
                    _mm256_maddubs_epi16(_mm256_abs_epi8(line), _mm256_sign_epi8(inputs, line));
                dots[half] = _mm256_add_epi32(dots[half], _mm256_madd_epi16(products, ones));
                pin(dots[half]);
            }
        }
        const WeightScales scales = group_scales(block, g % 2);
        const __m256 row_scale = _mm256_set1_ps(layout.scale(row)[g]);
        for (int half = 0; half < 2; half++) {
            totals[half] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(dots[half]),
                                           _mm256_mul_ps(scales.half[half], row_scale), totals[half]);
        }
    }
    _mm256_store_ps(tile, totals[0]);
    _mm256_store_ps(tile + LANES, totals[1]);
}

template <int R, bool FIRST>
static inline void tile_rows(const Matrix& w, const uint8_t* blocks, const RowLayout& layout,
                             const uint8_t* const* rows, float* tiles) {
    if (R == 1) {
        if (w.format == FORMAT_Q4) return single_q4(blocks, layout, rows[0], tiles);
        return single_q8(blocks, layout, rows[0], tiles);
    }
    for (int r = 0; r < R * TILE_ROWS; r += LANES) _mm256_store_ps(tiles + r, _mm256_setzero_ps());
    if (w.format == FORMAT_Q4) {
        for (int g = 0; g < layout.num_groups; g += 2, blocks += Q4_BLOCK_BYTES) {
            group_q4<R, FIRST>(blocks, 0, layout, rows, g, tiles);
            group_q4<R, FIRST>(blocks, 1, layout, rows, g + 1, tiles);
        }
    } else {
        for (int g = 0; g < layout.num_groups; g += 2, blocks += Q8_BLOCK_BYTES) {
            group_q8<R, FIRST>(blocks, 0, layout, rows, g, tiles);
            group_q8<R, FIRST>(blocks, 1, layout, rows, g + 1, tiles);
        }
    }
}

template <bool FIRST>
static inline void tile_some(const Matrix& w, const uint8_t* blocks, const RowLayout& layout,
                             const uint8_t* const* rows, int count, float* tiles) {
    if (count == 1) return tile_rows<1, FIRST>(w, blocks, layout, rows, tiles);
    if (count == 2) return tile_rows<2, FIRST>(w, blocks, layout, rows, tiles);
    if (count == 3) return tile_rows<3, FIRST>(w, blocks, layout, rows, tiles);
    tile_rows<4, FIRST>(w, blocks, layout, rows, tiles);
}

static void matmul(const Matrix& w, int first, int last, const void* const* rows, int num_rows,
                   float* const* y) {
    if (w.format == FORMAT_F32) return matmul_f32(w, first, last, rows, num_rows, y);
    const RowLayout layout(w.k);
    const uint8_t* const* packed = reinterpret_cast<const uint8_t* const*>(rows);
    alignas(32) float tiles[ROW_TILE * TILE_ROWS];
    for (int n = first; n < last; n++) {
        const uint8_t* blocks = static_cast<const uint8_t*>(w.data) + size_t(n) * row_block_bytes(w);
        for (int m = 0; m < num_rows; m += ROW_TILE) {
            const int count = num_rows - m < ROW_TILE ? num_rows - m : ROW_TILE;
            if (m == 0)
                tile_some<true>(w, blocks, layout, packed, count, tiles);
            else
                tile_some<false>(w, blocks, layout, packed + m, count, tiles);
            for (int r = 0; r < count; r++) {
                store_outputs(tiles + r * TILE_ROWS, w.n - n * TILE_ROWS, y[m + r] + (n - first) * TILE_ROWS);
            }
        }
    }
}

} // namespace QWEN_ISA
} // namespace qw
