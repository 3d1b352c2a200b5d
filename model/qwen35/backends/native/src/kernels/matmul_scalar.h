// The plain form of the integer tiles: what all others must equal, bit for bit.
#pragma once

#include "matmul.h"

namespace qw {
namespace QWEN_ISA {

// Weight of row r, column c of one block.
static inline int weight_q4(const uint8_t* lines, int r, int c) {
    uint8_t byte = lines[(c % GROUP) / 4 * 64 + r * 4 + c % 4];
    return (c < GROUP ? byte & 15 : byte >> 4) - 8;
}
static inline int weight_q8(const uint8_t* lines, int r, int c) {
    return int8_t(lines[c / 4 * 64 + r * 4 + c % 4]);
}

static void matmul(const Matrix& w, int first, int last, const void* const* rows, int num_rows,
                   float* const* y) {
    if (w.format == FORMAT_F32) return matmul_f32(w, first, last, rows, num_rows, y);
    const RowLayout layout(w.k);
    const bool is_q4 = w.format == FORMAT_Q4;
    const int block_bytes = is_q4 ? Q4_BLOCK_BYTES : Q8_BLOCK_BYTES;
    for (int n = first; n < last; n++) {
        const uint8_t* blocks = static_cast<const uint8_t*>(w.data) + size_t(n) * row_block_bytes(w);
        for (int m = 0; m < num_rows; m++) {
            const uint8_t* row = static_cast<const uint8_t*>(rows[m]);
            float tile[TILE_ROWS] = {};
            for (int g = 0; g < layout.num_groups; g++) {
                const uint8_t* block = blocks + size_t(g / 2) * block_bytes;
                const uint16_t* scales = reinterpret_cast<const uint16_t*>(block) + g % 2 * TILE_ROWS;
                const int8_t* q = layout.q(row) + g * GROUP;
                for (int r = 0; r < TILE_ROWS; r++) {
                    int dot = 0;
                    for (int c = 0; c < GROUP; c++) {
                        int column = g % 2 * GROUP + c;
                        dot += q[c] * (is_q4 ? weight_q4(block + SCALE_BYTES, r, column)
                                             : weight_q8(block + SCALE_BYTES, r, column));
                    }
                    float scale = half_to_float(scales[r]) * layout.scale(row)[g];
                    tile[r] = __builtin_fmaf(float(dot), scale, tile[r]);
                }
            }
            store_outputs(tile, w.n - n * TILE_ROWS, y[m] + (n - first) * TILE_ROWS);
        }
    }
}

} // namespace QWEN_ISA
} // namespace qw
