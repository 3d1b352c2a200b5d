// The gated delta rule and its short convolution.
//
// The rule is run in its exact recurrent form, token by token, also in prefill: blocked over value columns,
// a slice of the state (K x 32 floats) stays in the first cache while it walks over all tokens. That takes
// fewer operations than the chunked form, and cutting a prompt in pieces changes no bit.
#pragma once

#include "../kernels.h"
#include "functions.h"

namespace qw {
namespace QWEN_ISA {

constexpr int MAX_KEY_DIM = 256;

// One token on a slice of N vectors of columns, two reads of the state folded into one pass: while row k of
// the state is renewed it is also multiplied into this token's answer and into what the next token will find.
// `state` is (K, DELTA_COLS), `held` what the state, before it fades, holds for this token's key.
template <int N>
static inline void delta_token(int k_dim, const float* q, const float* k, const float* next_k, float decay,
                               const F8* delta, float* state, F8* y, F8* next_held) {
    F8 answer[N], found[N];
    for (int i = 0; i < N; i++) answer[i] = found[i] = set1(0.0f);
    F8 fade = set1(decay);
    for (int j = 0; j < k_dim; j++) {
        F8 key = set1(k[j]), query = set1(q[j]), next = set1(next_k[j]);
        for (int i = 0; i < N; i++) {
            float* at = state + j * DELTA_COLS + i * LANES;
            F8 s = fma(key, delta[i], load(at) * fade);
            store(at, s);
            answer[i] = fma(query, s, answer[i]);
            found[i] = fma(next, s, found[i]);
        }
    }
    for (int i = 0; i < N; i++) {
        y[i] = answer[i];
        next_held[i] = found[i];
    }
}

// N vectors of columns from `column` on, a single token: both passes over the state read it where it lies.
template <int N>
static inline void delta_step(const DeltaHead& head, int column) {
    const int K = head.k_dim, V = head.v_dim, width = V - column;
    const auto load_part = [&](const float* from, int i) { return load(from + i * LANES, width - i * LANES); };
    F8 delta[N], answer[N];
    for (int i = 0; i < N; i++) delta[i] = answer[i] = set1(0.0f);
    for (int j = 0; j < K; j++) {
        const float* from = head.state_in + size_t(j) * V + column;
        for (int i = 0; i < N; i++) delta[i] = fma(set1(head.k[j]), load_part(from, i), delta[i]);
    }
    const F8 fade = set1(*head.decay), beta = set1(*head.beta);
    for (int i = 0; i < N; i++) delta[i] = beta * (load_part(head.v + column, i) - delta[i] * fade);
    for (int j = 0; j < K; j++) {
        const size_t at = size_t(j) * V + column;
        if (head.next_state) {
            for (int i = 0; i < N; i += 2) __builtin_prefetch(head.next_state + at + i * LANES, 0, 2);
        }
        for (int i = 0; i < N; i++) {
            F8 s = fma(set1(head.k[j]), delta[i], load_part(head.state_in + at, i) * fade);
            store(head.state_out + at + i * LANES, s, width - i * LANES);
            answer[i] = fma(set1(head.q[j]), s, answer[i]);
        }
    }
    for (int i = 0; i < N; i++) store(head.y + column + i * LANES, answer[i], width - i * LANES);
}

// Many tokens: a slice of the state is copied out, walks over all of them, and is copied back.
static void delta_walk(const DeltaHead& head, int column) {
    constexpr int N = DELTA_COLS / LANES;
    const int K = head.k_dim, V = head.v_dim, width = V - column < DELTA_COLS ? V - column : DELTA_COLS;
    alignas(64) float state[MAX_KEY_DIM * DELTA_COLS];
    F8 held[N];
    for (int i = 0; i < N; i++) held[i] = set1(0.0f);
    for (int j = 0; j < K; j++) {
        const float* from = head.state_in + size_t(j) * V + column;
        for (int i = 0; i < N; i++) {
            F8 s = i * LANES < width ? load(from + i * LANES, width - i * LANES) : set1(0.0f);
            store(state + j * DELTA_COLS + i * LANES, s);
            held[i] = fma(set1(head.k[j]), s, held[i]);
        }
    }
    for (int t = 0; t < head.num_tokens; t++) {
        const float* q = head.q + size_t(t) * head.qk_stride;
        const float* k = head.k + size_t(t) * head.qk_stride;
        const float* next_k = t + 1 < head.num_tokens ? k + head.qk_stride : k;
        const float* v = head.v + size_t(t) * head.v_stride + column;
        const float decay = head.decay[size_t(t) * head.gate_stride];
        const F8 beta = set1(head.beta[size_t(t) * head.gate_stride]);
        F8 delta[N], y[N];
        for (int i = 0; i < N; i++) {
            F8 value = i * LANES < width ? load(v + i * LANES, width - i * LANES) : set1(0.0f);
            delta[i] = beta * (value - held[i] * set1(decay));
        }
        delta_token<N>(K, q, k, next_k, decay, delta, state, y, held);
        float* out = head.y + size_t(t) * head.y_stride + column;
        for (int i = 0; i * LANES < width; i++) store(out + i * LANES, y[i], width - i * LANES);
    }
    for (int j = 0; j < K; j++) {
        float* to = head.state_out + size_t(j) * V + column;
        for (int i = 0; i * LANES < width; i++) {
            store(to + i * LANES, load(state + j * DELTA_COLS + i * LANES), width - i * LANES);
        }
    }
}

static void delta_rule(const DeltaHead& head) {
    const int V = head.v_dim;
    if (head.num_tokens > 1) {
        for (int column = 0; column < V; column += DELTA_COLS) delta_walk(head, column);
        return;
    }
    int column = 0;
    for (; column + 8 * LANES <= V; column += 8 * LANES) delta_step<8>(head, column);
    for (; column < V; column += LANES) delta_step<1>(head, column);
}

// Inputs pass through bf16, as the state keeps them between calls: then a cut between two tokens is not felt.
static void convolve(const float* x, int num_tokens, int num_channels, int width, const float* weight,
                     const uint16_t* past, uint16_t* left, int first, int last, float* y) {
    constexpr int MAX_WIDTH = 8;
    for (int c = first; c < last; c += LANES) {
        const int count = last - c < LANES ? last - c : LANES;
        F8 inputs[MAX_WIDTH], taps[MAX_WIDTH];
        for (int j = 0; j < width; j++) taps[j] = load(weight + size_t(j) * num_channels + c, count);
        for (int j = 0; j + 1 < width; j++) inputs[j] = load_bf16(past + size_t(j) * num_channels + c, count);
        for (int t = 0; t < num_tokens; t++) {
            inputs[width - 1] = round_to_bf16(load(x + size_t(t) * num_channels + c, count));
            F8 total = inputs[0] * taps[0];
            for (int j = 1; j < width; j++) total = fma(inputs[j], taps[j], total);
            store(y + size_t(t) * num_channels + c, silu(total), count);
            for (int j = 0; j + 1 < width; j++) inputs[j] = inputs[j + 1];
        }
        for (int j = 0; j + 1 < width; j++) store_bf16(left + size_t(j) * num_channels + c, inputs[j], count);
    }
}

} // namespace QWEN_ISA
} // namespace qw
