// Keys and values of a head to q8 tiles, for attention whose products are those of matrices.
//
// A lane is a row of the packed matrix: a key, or a channel of all values. A scale is the 127th part of the
// largest value, to the nearest fp16 number, so that this value may be cut by a sixteenth of a step.
#pragma once

#include "quantise_weights.h"

namespace qw {
namespace QWEN_ISA {

constexpr float LARGEST_HALF = 65504.0f;

// Packs a q8 matrix (n, k). load(row, column, w) gives 32 columns of eight rows from there on, zeros where
// there are none.
template <class Load>
static inline void pack_q8(int n, int k, uint8_t* out, const Load& load) {
    for (int top = 0; top < n; top += TILE_ROWS) {
        for (int left = 0; left < k; left += TILE_COLS, out += Q8_BLOCK_BYTES) {
            for (int part = 0; part < 4; part++) {
                const int group = part / 2, lane = part % 2 * LANES;
                F8 w[GROUP];
                load(top + lane, left + group * GROUP, w);
                F8 largest = set1(0.0f);
                for (int i = 0; i < GROUP; i++) largest = max(largest, abs(w[i]));
                const F8 scale = min(round_to_half(largest / set1(127.0f)), set1(LARGEST_HALF));
                const F8 inverse = inverse_of(scale);
                store_halves(scale, out + 2 * (group * TILE_ROWS + lane));
                uint8_t* lines = out + SCALE_BYTES + group * 8 * 64 + lane * 4;
                for (int j = 0; j < 8; j++) {
                    F8 raised[4]; // q + 128, which is q's byte but for the uppermost bit
                    for (int b = 0; b < 4; b++) {
                        raised[b] = whole<Quant8>(w[4 * j + b], inverse) + set1(128.0f);
                    }
                    store_words(raised, 0x80808080, lines + j * 64);
                }
            }
        }
    }
}

static void pack_keys(const float* const* x, int at, const float* mean, int count, int head_dim,
                      uint8_t* out) {
    pack_q8(count, head_dim, out, [&](int key, int column, F8* w) {
        for (int i = 0; i < GROUP; i += LANES) {
            const int first = column + i, there = head_dim - first;
            for (int r = 0; r < LANES; r++) {
                w[i + r] = set1(0.0f);
                if (key + r < count && there > 0) {
                    w[i + r] = load(x[key + r] + at + first, there) - load(mean + first, there);
                }
            }
            transpose(w + i);
        }
    });
}

static void pack_values(const float* const* x, int at, int count, int head_dim, uint8_t* out) {
    pack_q8(head_dim, count, out, [&](int channel, int first, F8* w) {
        for (int i = 0; i < GROUP; i++) {
            const bool is_there = first + i < count && channel < head_dim;
            w[i] = is_there ? load(x[first + i] + at + channel, head_dim - channel) : set1(0.0f);
        }
    });
}

} // namespace QWEN_ISA
} // namespace qw
