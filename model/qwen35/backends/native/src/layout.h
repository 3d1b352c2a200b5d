// The bytes that kernels read and write: packed matrices and quantised activation rows.
//
// A packed matrix W (N outputs, K inputs) is padded to Np = multiple of 16 rows and Kp = multiple of 64
// columns with zero weights, and stored as row blocks of 16 rows, each as k-blocks of 64 columns in two
// groups of 32:
//   q4 block, 576 bytes: fp16 scales [2 groups][16 rows], then 8 lines of 64 bytes. Byte r * 4 + b of
//       line j holds q + 8 of row r, column 4j + b in its low nibble and column 32 + 4j + b in its high.
//   q8 block, 1088 bytes: the same scales, then 16 lines. Byte r * 4 + b of line j is q of column 4j + b.
// f32 is a plain row-major (N, K) array: for routers and other small matrices.
//
// An activation row is quantised in the same groups of 32: see RowLayout.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qw {

enum Format : int32_t { FORMAT_F32 = 0, FORMAT_Q4 = 1, FORMAT_Q8 = 2 };

constexpr int TILE_ROWS = 16;   // outputs that one row block holds
constexpr int TILE_COLS = 64;   // inputs that one block covers
constexpr int GROUP = 32;       // inputs that share a scale
constexpr int SCALE_BYTES = 64; // fp16 [2][16]
constexpr int Q4_BLOCK_BYTES = SCALE_BYTES + 8 * 64;
constexpr int Q8_BLOCK_BYTES = SCALE_BYTES + 16 * 64;

// A matrix as the caller describes it; also part of the C ABI.
struct Matrix {
    const void* data;
    int32_t format;
    int32_t n; // outputs, logical
    int32_t k; // inputs, logical
    int32_t reserved;
};

inline int round_up(int value, int step) { return (value + step - 1) / step * step; }
inline int num_row_blocks(int n) { return (n + TILE_ROWS - 1) / TILE_ROWS; }
inline int num_k_blocks(int k) { return (k + TILE_COLS - 1) / TILE_COLS; }

inline size_t row_block_bytes(const Matrix& w) {
    if (w.format == FORMAT_F32) return size_t(TILE_ROWS) * w.k * sizeof(float);
    return size_t(w.format == FORMAT_Q4 ? Q4_BLOCK_BYTES : Q8_BLOCK_BYTES) * num_k_blocks(w.k);
}

// A quantised row of Kp inputs, in one run of memory:
//   int8  q[Kp]            x * (127 / max |x|), rounded half to even; zero in the padding
//   float scale[Kp / 32]   max |x| / 127 of the group; zero, as its q are, where that would be denormal
//   int32 sum[Kp / 32]     of the group's q
//   int32 bias[Kp / 32]    two int16 side by side: -8 times the sum of the q at even pairs of columns
//                          (4j, 4j + 1) and at odd ones (4j + 2, 4j + 3). Weights are stored as q + 8;
//                          a dot product in int16 pairs starts from here.
struct RowLayout {
    int kp, num_groups;

    explicit RowLayout(int k) : kp(round_up(k, TILE_COLS)), num_groups(kp / GROUP) {}
    size_t bytes() const { return (size_t(kp) + size_t(num_groups) * 12 + 63) / 64 * 64; }

    int8_t* q(uint8_t* row) const { return reinterpret_cast<int8_t*>(row); }
    float* scale(uint8_t* row) const { return reinterpret_cast<float*>(row + kp); }
    int32_t* sum(uint8_t* row) const { return reinterpret_cast<int32_t*>(row + kp) + num_groups; }
    int32_t* bias(uint8_t* row) const { return reinterpret_cast<int32_t*>(row + kp) + 2 * num_groups; }
    const int8_t* q(const uint8_t* row) const { return reinterpret_cast<const int8_t*>(row); }
    const float* scale(const uint8_t* row) const { return reinterpret_cast<const float*>(row + kp); }
    const int32_t* sum(const uint8_t* row) const {
        return reinterpret_cast<const int32_t*>(row + kp) + num_groups;
    }
    const int32_t* bias(const uint8_t* row) const {
        return reinterpret_cast<const int32_t*>(row + kp) + 2 * num_groups;
    }
};

} // namespace qw
