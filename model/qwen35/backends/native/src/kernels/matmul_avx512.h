// The integer tiles on AVX-512 VNNI: dpbusd adds four products of unsigned and signed bytes in int32,
// exactly.
//
// Weights are the unsigned side: q + 8 as stored in q4, q + 128 in q8 (one xor). The sums start from -8 or
// -128 times the sum of the group's activations, which takes the offset back. A line of a block is one
// register of sixteen outputs.
#pragma once

#include "matmul.h"

namespace qw {
namespace QWEN_ISA {

constexpr int VNNI_ROWS = 8; // rows of a tile: 16 sums and 8 float chains fit the 32 registers

static inline __m512i four_inputs(const int8_t* q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return _mm512_set1_epi32(four);
}

static inline __m512i line_of(const uint8_t* lines, int line) { return _mm512_load_si512(lines + line * 64); }

static inline __m512 group_scales(const uint8_t* block, int group) {
    return _mm512_cvtph_ps(
        _mm256_load_si256(reinterpret_cast<const __m256i*>(block + group * TILE_ROWS * 2)));
}

// The first rows that come to a block ask for one that comes later; the others find all in the cache. The
// processor's own prefetching leaves a tenth of the memory's speed; more blocks ahead push out what comes first.
constexpr int BLOCKS_AHEAD = 3;

static inline void prefetch(const uint8_t* block, int block_bytes) {
    for (int i = 0; i < block_bytes; i += 64) {
        _mm_prefetch(reinterpret_cast<const char*>(block) + BLOCKS_AHEAD * block_bytes + i, _MM_HINT_T0);
    }
}

// The group's integers become part of the float chain.
static inline __m512 add_group(__m512 total, __m512i dot, __m512 weight_scale, float row_scale) {
    return _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot), _mm512_mul_ps(weight_scale, _mm512_set1_ps(row_scale)),
                           total);
}

template <int R>
static inline void tile_q4(const uint8_t* blocks, const RowLayout& layout, const uint8_t* const* rows,
                           bool is_first, float* tiles) {
    const __m512i low = _mm512_set1_epi8(15);
    __m512 totals[R];
    for (int r = 0; r < R; r++) totals[r] = _mm512_setzero_ps();
    for (int g = 0; g < layout.num_groups; g += 2, blocks += Q4_BLOCK_BYTES) {
        if (is_first) prefetch(blocks, Q4_BLOCK_BYTES);
        __m512i dots[2][R];
        for (int r = 0; r < R; r++) {
            dots[0][r] = _mm512_set1_epi32(-8 * layout.sum(rows[r])[g]);
            dots[1][r] = _mm512_set1_epi32(-8 * layout.sum(rows[r])[g + 1]);
        }
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const __m512i line = line_of(blocks + SCALE_BYTES, j);
            const __m512i first = _mm512_and_si512(line, low);
            const __m512i second = _mm512_and_si512(_mm512_srli_epi16(line, 4), low);
            for (int r = 0; r < R; r++) {
                const int8_t* q = layout.q(rows[r]) + g * GROUP + 4 * j;
                dots[0][r] = _mm512_dpbusd_epi32(dots[0][r], first, four_inputs(q));
                dots[1][r] = _mm512_dpbusd_epi32(dots[1][r], second, four_inputs(q + GROUP));
            }
        }
        const __m512 scales[2] = {group_scales(blocks, 0), group_scales(blocks, 1)};
        for (int r = 0; r < R; r++) {
            totals[r] = add_group(totals[r], dots[0][r], scales[0], layout.scale(rows[r])[g]);
            totals[r] = add_group(totals[r], dots[1][r], scales[1], layout.scale(rows[r])[g + 1]);
        }
    }
    for (int r = 0; r < R; r++) _mm512_storeu_ps(tiles + r * TILE_ROWS, totals[r]);
}

template <int R>
static inline void tile_q8(const uint8_t* blocks, const RowLayout& layout, const uint8_t* const* rows,
                           bool is_first, float* tiles) {
    const __m512i flip = _mm512_set1_epi8(int8_t(0x80));
    __m512 totals[R];
    for (int r = 0; r < R; r++) totals[r] = _mm512_setzero_ps();
    for (int g = 0; g < layout.num_groups; g++) {
        const uint8_t* block = blocks + size_t(g / 2) * Q8_BLOCK_BYTES;
        const uint8_t* lines = block + SCALE_BYTES + g % 2 * 8 * 64;
        if (is_first && g % 2 == 0) prefetch(block, Q8_BLOCK_BYTES);
        __m512i dots[R];
        for (int r = 0; r < R; r++) dots[r] = _mm512_set1_epi32(-128 * layout.sum(rows[r])[g]);
#pragma GCC unroll 8
        for (int j = 0; j < 8; j++) {
            const __m512i weights = _mm512_xor_si512(line_of(lines, j), flip);
            for (int r = 0; r < R; r++) {
                const int8_t* q = layout.q(rows[r]) + g * GROUP + 4 * j;
                dots[r] = _mm512_dpbusd_epi32(dots[r], weights, four_inputs(q));
            }
        }
        const __m512 scales = group_scales(block, g % 2);
        for (int r = 0; r < R; r++)
            totals[r] = add_group(totals[r], dots[r], scales, layout.scale(rows[r])[g]);
    }
    for (int r = 0; r < R; r++) _mm512_storeu_ps(tiles + r * TILE_ROWS, totals[r]);
}

template <int R>
static inline void tile_rows(const Matrix& w, const uint8_t* blocks, const RowLayout& layout,
                             const uint8_t* const* rows, bool is_first, float* tiles) {
    if (w.format == FORMAT_Q4) return tile_q4<R>(blocks, layout, rows, is_first, tiles);
    return tile_q8<R>(blocks, layout, rows, is_first, tiles);
}

static void matmul(const Matrix& w, int first, int last, const void* const* rows, int num_rows,
                   float* const* y) {
    if (w.format == FORMAT_F32) return matmul_f32(w, first, last, rows, num_rows, y);
    const RowLayout layout(w.k);
    const uint8_t* const* packed = reinterpret_cast<const uint8_t* const*>(rows);
    alignas(64) float tiles[VNNI_ROWS * TILE_ROWS];
    for (int n = first; n < last; n++) {
        const uint8_t* blocks = static_cast<const uint8_t*>(w.data) + size_t(n) * row_block_bytes(w);
        for (int m = 0; m < num_rows; m += VNNI_ROWS) {
            const int count = num_rows - m < VNNI_ROWS ? num_rows - m : VNNI_ROWS;
            switch (count) {
            case 1:
                tile_rows<1>(w, blocks, layout, packed + m, m == 0, tiles);
                break;
            case 2:
                tile_rows<2>(w, blocks, layout, packed + m, m == 0, tiles);
                break;
            case 3:
                tile_rows<3>(w, blocks, layout, packed + m, m == 0, tiles);
                break;
            case 4:
                tile_rows<4>(w, blocks, layout, packed + m, m == 0, tiles);
                break;
            case 5:
                tile_rows<5>(w, blocks, layout, packed + m, m == 0, tiles);
                break;
            case 6:
                tile_rows<6>(w, blocks, layout, packed + m, m == 0, tiles);
                break;
            case 7:
                tile_rows<7>(w, blocks, layout, packed + m, m == 0, tiles);
                break;
            default:
                tile_rows<8>(w, blocks, layout, packed + m, m == 0, tiles);
                break;
            }
            for (int r = 0; r < count; r++) {
                store_outputs(tiles + r * TILE_ROWS, w.n - n * TILE_ROWS, y[m + r] + (n - first) * TILE_ROWS);
            }
        }
    }
}

} // namespace QWEN_ISA
} // namespace qw
