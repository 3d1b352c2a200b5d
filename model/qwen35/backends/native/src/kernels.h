// The table of kernels of one instruction set: leaf loops over rows and tiles, single-threaded. What calls
// them (the blocks) is compiled once and knows no instruction set.
#pragma once

#include "layout.h"

namespace qw {

constexpr int ROW_TILE = 4;    // activation rows that share one read of the weights
constexpr int DELTA_COLS = 32; // value columns of a state that stay in the first cache over all tokens
constexpr int KEY_BLOCK = 256; // keys of one block of the KV cache, as in state.py
constexpr int KEY_TILE = 16;   // keys that are scored at a time
constexpr int QUERY_GROUP = 6; // query rows that share one read of a key, at most
constexpr int FEW_QUERIES = 8; // query rows for which keys are not widened aside

enum NumberType : int32_t { NUMBER_F32 = 0, NUMBER_F16 = 1, NUMBER_BF16 = 2 };
enum Activation : int32_t { ACTIVATION_NONE = 0, ACTIVATION_GELU_TANH = 1, ACTIVATION_GELU_EXACT = 2 };

// One head's walk over T tokens. Token t has its vectors at `base + t * stride`.
struct DeltaHead {
    int num_tokens, k_dim, v_dim;
    const float *q, *k, *v; // normalised (q also scaled); q and k share a stride
    int qk_stride, v_stride;
    const float *decay, *beta; // factor in (0, 1], and the strength of the write
    int gate_stride;
    const float* state_in; // (K, V), both contiguous; may be one
    float* state_out;
    const float* next_state; // of the head that comes after this one, or null
    float* y; // (T, V) with stride y_stride
    int y_stride;
};

// Rows of queries against at most KEY_BLOCK keys. Row r sees keys [0, limits[r]).
struct AttentionTile {
    int num_rows, head_dim;
    const float* q;        // (rows, padded head_dim), scaled, zero in the padding
    const uint16_t *k, *v; // (keys, head_dim) bf16: one head of a block of the KV cache
    const int* limits;
    float* scratch; // attention_scratch_floats(num_rows, head_dim)
    float* top;     // (rows): the largest score
    float* total;   // (rows): sum of exp(score - top)
    float* y;       // (rows, padded head_dim): sum of exp(score - top) * v
};
inline int padded_head(int head_dim) { return round_up(head_dim, 16); }
inline size_t attention_scratch_floats(int num_rows, int head_dim) {
    const size_t keys = size_t(KEY_TILE) * padded_head(head_dim), values = size_t(KEY_BLOCK) * 16;
    return size_t(num_rows) * KEY_BLOCK + (keys > values ? keys : values);
}

struct Kernels {
    const char* name;

    // Quantise groups [first, last) of a row of k values; see RowLayout. `x` is the first value of group
    // `first`, `count` values follow from there, the others are zero.
    void (*quantise)(const float* x, int count, int k, int first, int last, uint8_t* row);
    // The tiles of weights (n, k), which are of that type, as weights/quantize.py defines them. False where
    // it would refuse them; `tiles` then hold anything.
    bool (*quantise_weights)(const void* w, NumberType type, int64_t n, int64_t k, Format format,
                             uint8_t* tiles);
    // The outputs of row blocks [first, last) for `num_rows` rows: quantised rows for q4 and q8, float rows
    // for f32. Each output is one chain of fused multiply-adds over groups in order, so that it does not
    // depend on the rows beside it. y[m] is where the first output of block `first` goes.
    void (*matmul)(const Matrix& w, int first, int last, const void* const* rows, int num_rows,
                   float* const* y);

    void (*rms_norm)(const float* x, const float* w, float eps, int n, float* y); // applies 1 + w
    void (*gated_norm)(const float* x, const float* w, const float* gate, float eps, int n, float* y);
    void (*layer_norm)(const float* x, const float* w, const float* b, float eps, int n, float* y);
    void (*l2_normalise)(float* x, float scale, int n);
    void (*swiglu)(const float* gate, const float* up, int n, float* y);
    void (*activate)(Activation kind, float* x, int n);
    void (*gate)(float* x, const float* gate, int n);                 // x *= sigmoid(gate)
    void (*add)(float* x, const float* y, int n);                     // x += y
    void (*add_scaled)(float* x, const float* y, float scale, int n); // x = fma(y, scale, x)
    float (*sigmoid)(float x);
    float (*exponentiate)(float* x, int n); // x = exp(x - max(x)); returns the sum
    void (*rotate)(float* x, const float* cos, const float* sin, int half); // split half, in place
    void (*to_bf16)(const float* x, int n, uint16_t* y);
    // decay[h] = exp(neg_a[h] * softplus(a[h] + dt_bias[h])), beta[h] = sigmoid(b[h])
    void (*decay_and_beta)(const float* a, const float* b, const float* dt_bias, const float* neg_a, int n,
                           float* decay, float* beta);
    // Depthwise causal convolution over time and SiLU on channels [first, last). x and y are (T, C); inputs
    // are rounded to bf16, as the state keeps them. `weight` is (W, C), `past` and `left` are (W - 1, C)
    // and may be one.
    void (*convolve)(const float* x, int num_tokens, int num_channels, int width, const float* weight,
                     const uint16_t* past, uint16_t* left, int first, int last, float* y);
    void (*delta_rule)(const DeltaHead& head);
    void (*attend)(const AttentionTile& tile);
    // Put a tile's partial result behind what the blocks before it gave (empty: top -inf, total 0, y 0).
    void (*merge)(float* top, float* total, float* y, float tile_top, float tile_total, const float* tile_y,
                  int head_dim);
    // A head's keys less their `mean`, a q8 matrix (count, head_dim), and its values turned over, another one
    // (head_dim, count). Those of token i begin at x[i] + at.
    void (*pack_keys)(const float* const* x, int at, const float* mean, int count, int head_dim,
                      uint8_t* out);
    void (*pack_values)(const float* const* x, int at, int count, int head_dim, uint8_t* out);
};

const Kernels* scalar_kernels();
const Kernels* avx2_kernels(); // nullptr where this build or processor has none
const Kernels* avx512_kernels();
const Kernels* neon_kernels();

} // namespace qw
