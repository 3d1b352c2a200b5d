// Matrix times quantised rows, tile by tile: 16 outputs, up to ROW_TILE rows.
//
// One numerics on every instruction set. Within a group of 32 inputs the product of integers is exact; then
//     acc = fma(float(dot), scale_w * scale_a, acc)
// over groups in order, one chain per output. What differs between processors is how `dot` is found.
#pragma once

#include "../kernels.h"
#include "functions.h"

namespace qw {
namespace QWEN_ISA {

static inline float half_to_float(uint16_t half) {
    const uint32_t sign = uint32_t(half & 0x8000) << 16;
    uint32_t exponent = (half >> 10) & 31, mantissa = half & 1023;
    uint32_t bits;
    if (exponent == 31) {
        bits = sign | 0x7f800000 | mantissa << 13;
    } else if (exponent) {
        bits = sign | (exponent + 112) << 23 | mantissa << 13;
    } else { // zero or subnormal: mantissa * 2^-24
        float value = float(mantissa) * 5.9604644775390625e-8f;
        memcpy(&bits, &value, sizeof bits);
        bits |= sign;
    }
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}

// Write the outputs of one row of a tile; the last row block may hold fewer than 16 real ones.
static inline void store_outputs(const float* tile, int count, float* y) {
    if (count >= TILE_ROWS) {
        memcpy(y, tile, TILE_ROWS * sizeof(float));
    } else {
        for (int i = 0; i < count; i++) y[i] = tile[i];
    }
}

// f32: each output is a chain of eight lanes over inputs, then their sum.
static void matmul_f32(const Matrix& w, int first, int last, const void* const* rows, int num_rows,
                       float* const* y) {
    const float* weights = static_cast<const float*>(w.data);
    const int end = last * TILE_ROWS < w.n ? last * TILE_ROWS : w.n;
    for (int n = first * TILE_ROWS; n < end; n++) {
        const float* weight = weights + size_t(n) * w.k;
        for (int m = 0; m < num_rows; m++) {
            const float* x = static_cast<const float*>(rows[m]);
            F8 total = set1(0.0f);
            for (int i = 0; i < w.k; i += LANES)
                total = fma(load(weight + i, w.k - i), load(x + i, w.k - i), total);
            y[m][n - first * TILE_ROWS] = sum(total);
        }
    }
}

} // namespace QWEN_ISA
} // namespace qw
