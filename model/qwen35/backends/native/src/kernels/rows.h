// Kernels along one row: norms, gates, activations, softmax, rotation.
#pragma once

#include "../kernels.h"
#include "functions.h"

namespace qw {
namespace QWEN_ISA {

static float sum_of_squares(const float* x, int n) {
    F8 total = set1(0.0f);
    for (int i = 0; i < n; i += LANES) {
        F8 v = load(x + i, n - i);
        total = fma(v, v, total);
    }
    return sum(total);
}

static void rms_norm(const float* x, const float* w, float eps, int n, float* y) {
    F8 scale = set1(1.0f / __builtin_sqrtf(sum_of_squares(x, n) / float(n) + eps));
    for (int i = 0; i < n; i += LANES) {
        F8 weight = set1(1.0f) + load(w + i, n - i);
        store(y + i, load(x + i, n - i) * scale * weight, n - i);
    }
}

static void gated_norm(const float* x, const float* w, const float* gate, float eps, int n, float* y) {
    F8 scale = set1(1.0f / __builtin_sqrtf(sum_of_squares(x, n) / float(n) + eps));
    for (int i = 0; i < n; i += LANES) {
        F8 normed = load(x + i, n - i) * scale * load(w + i, n - i);
        store(y + i, normed * silu(load(gate + i, n - i)), n - i);
    }
}

static void layer_norm(const float* x, const float* w, const float* b, float eps, int n, float* y) {
    F8 total = set1(0.0f);
    for (int i = 0; i < n; i += LANES) total = total + load(x + i, n - i);
    const float average = sum(total) / float(n);
    F8 mean = set1(average);
    F8 squares = set1(0.0f);
    int whole = n / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) {
        F8 d = load(x + i) - mean;
        squares = fma(d, d, squares);
    }
    float variance = sum(squares);
    for (int i = whole; i < n; i++) { // padding lanes would add mean squared
        float d = x[i] - average;
        variance = __builtin_fmaf(d, d, variance);
    }
    F8 scale = set1(1.0f / __builtin_sqrtf(variance / float(n) + eps));
    for (int i = 0; i < n; i += LANES) {
        F8 d = (load(x + i, n - i) - mean) * scale;
        store(y + i, fma(d, load(w + i, n - i), load(b + i, n - i)), n - i);
    }
}

static void l2_normalise(float* x, float scale, int n) {
    F8 factor = set1(scale / __builtin_sqrtf(sum_of_squares(x, n) + 1e-6f));
    for (int i = 0; i < n; i += LANES) store(x + i, load(x + i, n - i) * factor, n - i);
}

static void swiglu(const float* gate, const float* up, int n, float* y) {
    for (int i = 0; i < n; i += LANES) store(y + i, silu(load(gate + i, n - i)) * load(up + i, n - i), n - i);
}

static void activate(Activation kind, float* x, int n) {
    if (kind == ACTIVATION_GELU_TANH) {
        for (int i = 0; i < n; i += LANES) store(x + i, gelu_tanh(load(x + i, n - i)), n - i);
    } else if (kind == ACTIVATION_GELU_EXACT) {
        for (int i = 0; i < n; i += LANES) store(x + i, gelu_exact(load(x + i, n - i)), n - i);
    }
}

static void gate_row(float* x, const float* gate, int n) {
    for (int i = 0; i < n; i += LANES) {
        store(x + i, load(x + i, n - i) * sigmoid(load(gate + i, n - i)), n - i);
    }
}

static void add_row(float* x, const float* y, int n) {
    for (int i = 0; i < n; i += LANES) store(x + i, load(x + i, n - i) + load(y + i, n - i), n - i);
}

static void add_scaled(float* x, const float* y, float scale, int n) {
    for (int i = 0; i < n; i += LANES) {
        store(x + i, fma(load(y + i, n - i), set1(scale), load(x + i, n - i)), n - i);
    }
}

static float sigmoid_of(float x) {
    float lanes[LANES];
    store(lanes, sigmoid(set1(x)));
    return lanes[0];
}

static float exponentiate(float* x, int n) {
    F8 tops = set1(x[0]);
    int whole = n / LANES * LANES;
    for (int i = 0; i < whole; i += LANES) tops = max(tops, load(x + i));
    float top = largest(tops);
    for (int i = whole; i < n; i++) top = x[i] > top ? x[i] : top;
    F8 total = set1(0.0f);
    for (int i = 0; i < n; i += LANES) {
        store(x + i, exp(load(x + i, n - i) - set1(top)), n - i);
        total = total + load(x + i, n - i);
    }
    return sum(total);
}

static void rotate(float* x, const float* cos, const float* sin, int half) {
    for (int i = 0; i < half; i += LANES) {
        F8 first = load(x + i, half - i), second = load(x + half + i, half - i);
        F8 c = load(cos + i, half - i), s = load(sin + i, half - i);
        store(x + i, first * c - second * s, half - i);
        store(x + half + i, second * c + first * s, half - i);
    }
}

static void row_to_bf16(const float* x, int n, uint16_t* y) {
    for (int i = 0; i < n; i += LANES) store_bf16(y + i, load(x + i, n - i), n - i);
}

static void decay_and_beta(const float* a, const float* b, const float* dt_bias, const float* neg_a, int n,
                           float* decay, float* beta) {
    for (int i = 0; i < n; i += LANES) {
        F8 softened = softplus(load(a + i, n - i) + load(dt_bias + i, n - i));
        store(decay + i, exp(load(neg_a + i, n - i) * softened), n - i);
        store(beta + i, sigmoid(load(b + i, n - i)), n - i);
    }
}

} // namespace QWEN_ISA
} // namespace qw
