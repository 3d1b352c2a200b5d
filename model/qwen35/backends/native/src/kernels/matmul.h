// Matrix times quantised rows, tile by tile: 16 outputs, up to ROW_TILE rows.
//
// One numerics on every instruction set. Within a group of 32 inputs the product of integers is exact; then
//     acc = fma(float(dot), scale_w * scale_a, acc)
// over groups in order, one chain per output. What differs between processors is how `dot` is found.
#pragma once

#include "../kernels.h"
#include "functions.h"

#include <type_traits>

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

// f32: each output is a chain of eight lanes over inputs, then their sum. N * R chains run side by side.
template <int N, int R>
static inline void dot_f32(const float* weights, int k, const void* const* rows, float* const* y, int at) {
    F8 totals[N][R];
    for (int n = 0; n < N; n++) {
        for (int r = 0; r < R; r++) totals[n][r] = set1(0.0f);
    }
    for (int i = 0; i < k; i += LANES) {
        F8 x[R];
        for (int r = 0; r < R; r++) x[r] = load(static_cast<const float*>(rows[r]) + i, k - i);
        for (int n = 0; n < N; n++) {
            const F8 weight = load(weights + size_t(n) * k + i, k - i);
            for (int r = 0; r < R; r++) totals[n][r] = fma(weight, x[r], totals[n][r]);
        }
    }
    for (int n = 0; n < N; n++) {
        for (int r = 0; r < R; r++) y[r][at + n] = sum(totals[n][r]);
    }
}

static void matmul_f32(const Matrix& w, int first, int last, const void* const* rows, int num_rows,
                       float* const* y) {
    const int start = first * TILE_ROWS, end = last * TILE_ROWS < w.n ? last * TILE_ROWS : w.n;
    int n = start;
    const auto run = [&](auto outputs) {
        constexpr int N = decltype(outputs)::value;
        for (; n + N <= end; n += N) {
            const float* weights = static_cast<const float*>(w.data) + size_t(n) * w.k;
            int m = 0;
            for (; m + 2 <= num_rows; m += 2) dot_f32<N, 2>(weights, w.k, rows + m, y + m, n - start);
            if (m < num_rows) dot_f32<N, 1>(weights, w.k, rows + m, y + m, n - start);
        }
    };
    run(std::integral_constant<int, 4>());
    run(std::integral_constant<int, 1>());
}

} // namespace QWEN_ISA
} // namespace qw
