// The two ends of the text model: rows of the embedding matrix in, logits out.
#include "blocks.h"

#include <cstring>

namespace qw {

namespace {

float half_to_float(uint16_t half) {
    const uint32_t exponent = (half >> 10) & 31, mantissa = half & 1023;
    float y = exponent ? float(mantissa + 1024) * (1.0f / (1 << 24)) * float(1u << (exponent - 1))
                       : float(mantissa) * (1.0f / (1 << 24));
    return half & 0x8000 ? -y : y;
}

// Row `n` of a packed matrix, as float32.
void unpack_row(const Matrix& w, int64_t n, float* y) {
    if (w.format == FORMAT_F32) {
        std::memcpy(y, static_cast<const float*>(w.data) + n * w.k, w.k * sizeof(float));
        return;
    }
    const bool is_q4 = w.format == FORMAT_Q4;
    const int r = int(n % TILE_ROWS), block_bytes = is_q4 ? Q4_BLOCK_BYTES : Q8_BLOCK_BYTES;
    const uint8_t* blocks = static_cast<const uint8_t*>(w.data) + size_t(n / TILE_ROWS) * row_block_bytes(w);
    for (int column = 0; column < w.k; column++) {
        const uint8_t* block = blocks + size_t(column / TILE_COLS) * block_bytes;
        const uint16_t* scales = reinterpret_cast<const uint16_t*>(block);
        const int group = column % TILE_COLS / GROUP, line = column % (is_q4 ? GROUP : TILE_COLS) / 4;
        const uint8_t byte = block[SCALE_BYTES + line * 64 + r * 4 + column % 4];
        const int q = is_q4 ? (group ? byte >> 4 : byte & 15) - 8 : int8_t(byte);
        y[column] = float(q) * half_to_float(scales[group * TILE_ROWS + r]);
    }
}

} // namespace

void embed(const Matrix& table, const int64_t* ids, int num_rows, float* x) {
    for (int m = 0; m < num_rows; m++) unpack_row(table, ids[m], x + size_t(m) * table.k);
}

void run_head(Context& context, const float* norm, float eps, const Matrix& head, const float* x,
              const int32_t* rows, int num_rows, float* logits) {
    const int size = head.k;
    float* picked = context.scratch.take<float>(size_t(num_rows) * size);
    for (int m = 0; m < num_rows; m++) {
        std::memcpy(picked + size_t(m) * size, x + size_t(rows[m]) * size, size * sizeof(float));
    }
    const Normed normed = norm_rows(context, norm, eps, size, picked, num_rows);
    const Product product{head, inputs_of(normed.quantised, normed.floats),
                          point_at(context, logits, head.n, num_rows).rows};
    multiply(context, &product, 1);
}

} // namespace qw
