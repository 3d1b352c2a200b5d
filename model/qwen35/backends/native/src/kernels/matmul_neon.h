// The integer tiles on 64-bit ARM: sdot adds four products of signed bytes in int32, exactly. A line of a
// block is four registers of four outputs each.
#pragma once

#include "matmul.h"

namespace qw {
namespace QWEN_ISA {

constexpr int QUARTERS = TILE_ROWS / 4;

static inline int8x16_t four_inputs(const int8_t* q) {
    int32_t four;
    memcpy(&four, q, sizeof four);
    return vreinterpretq_s8_s32(vdupq_n_s32(four));
}

// The four outputs `quarter` of one line of a group, as signed weights.
static inline int8x16_t weights_of(const uint8_t* block, bool is_q4, int group, int line, int quarter) {
    const uint8_t* lines = block + SCALE_BYTES + quarter * 16;
    if (!is_q4) return vld1q_s8(reinterpret_cast<const int8_t*>(lines) + (group * 8 + line) * 64);
    uint8x16_t bytes = vld1q_u8(lines + line * 64);
    uint8x16_t nibbles = group ? vshrq_n_u8(bytes, 4) : vandq_u8(bytes, vdupq_n_u8(15));
    return vsubq_s8(vreinterpretq_s8_u8(nibbles), vdupq_n_s8(8));
}

template <int R>
static inline void tile_rows(const Matrix& w, const uint8_t* blocks, const RowLayout& layout,
                             const uint8_t* const* rows, float* tiles) {
    const bool is_q4 = w.format == FORMAT_Q4;
    const int block_bytes = is_q4 ? Q4_BLOCK_BYTES : Q8_BLOCK_BYTES;
    float32x4_t totals[R][QUARTERS];
    for (int r = 0; r < R; r++) {
        for (int i = 0; i < QUARTERS; i++) totals[r][i] = vdupq_n_f32(0.0f);
    }
    for (int g = 0; g < layout.num_groups; g++) {
        const uint8_t* block = blocks + size_t(g / 2) * block_bytes;
        int32x4_t dots[R][QUARTERS];
        for (int r = 0; r < R; r++) {
            for (int i = 0; i < QUARTERS; i++) dots[r][i] = vdupq_n_s32(0);
        }
        for (int j = 0; j < 8; j++) {
            for (int i = 0; i < QUARTERS; i++) {
                const int8x16_t weights = weights_of(block, is_q4, g % 2, j, i);
                for (int r = 0; r < R; r++) {
                    const int8_t* q = layout.q(rows[r]) + g * GROUP + 4 * j;
                    dots[r][i] = vdotq_s32(dots[r][i], weights, four_inputs(q));
                }
            }
        }
        const float16_t* scales = reinterpret_cast<const float16_t*>(block) + g % 2 * TILE_ROWS;
        for (int i = 0; i < QUARTERS; i++) {
            const float32x4_t weight_scale = vcvt_f32_f16(vld1_f16(scales + 4 * i));
            for (int r = 0; r < R; r++) {
                const float32x4_t scale = vmulq_n_f32(weight_scale, layout.scale(rows[r])[g]);
                totals[r][i] = vfmaq_f32(totals[r][i], vcvtq_f32_s32(dots[r][i]), scale);
            }
        }
    }
    for (int r = 0; r < R; r++) {
        for (int i = 0; i < QUARTERS; i++) vst1q_f32(tiles + r * TILE_ROWS + 4 * i, totals[r][i]);
    }
}

static void matmul(const Matrix& w, int first, int last, const void* const* rows, int num_rows,
                   float* const* y) {
    if (w.format == FORMAT_F32) return matmul_f32(w, first, last, rows, num_rows, y);
    const RowLayout layout(w.k);
    const uint8_t* const* packed = reinterpret_cast<const uint8_t* const*>(rows);
    alignas(64) float tiles[ROW_TILE * TILE_ROWS];
    for (int n = first; n < last; n++) {
        const uint8_t* blocks = static_cast<const uint8_t*>(w.data) + size_t(n) * row_block_bytes(w);
        for (int m = 0; m < num_rows; m += ROW_TILE) {
            const int count = num_rows - m < ROW_TILE ? num_rows - m : ROW_TILE;
            switch (count) {
            case 1:
                tile_rows<1>(w, blocks, layout, packed + m, tiles);
                break;
            case 2:
                tile_rows<2>(w, blocks, layout, packed + m, tiles);
                break;
            case 3:
                tile_rows<3>(w, blocks, layout, packed + m, tiles);
                break;
            default:
                tile_rows<4>(w, blocks, layout, packed + m, tiles);
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
