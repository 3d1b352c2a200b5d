// Elementary functions on F8, accurate to a few units in the last place, the same on every processor.
#pragma once

#include "../simd.h"

namespace qw {
namespace QWEN_ISA {

// exp: x = n ln 2 + r with |r| <= ln 2 / 2, then a polynomial in r (Cephes' expf) times 2^n. Below -87
// the result stays at the smallest normal number instead of fading to zero.
static inline F8 exp(F8 x) {
    x = min(max(x, set1(-87.0f)), set1(88.0f));
    F8 n = round_even(x * set1(1.44269504088896341f));
    F8 r = fma(n, set1(-0.693359375f), x);
    r = fma(n, set1(2.12194440e-4f), r);
    F8 p = set1(1.9875691500e-4f);
    p = fma(p, r, set1(1.3981999507e-3f));
    p = fma(p, r, set1(8.3334519073e-3f));
    p = fma(p, r, set1(4.1665795894e-2f));
    p = fma(p, r, set1(1.6666665459e-1f));
    p = fma(p, r, set1(5.0000001201e-1f));
    return fma(p, r * r, r + set1(1.0f)) * exp2_whole(n);
}

static inline F8 sigmoid(F8 x) { return set1(1.0f) / (set1(1.0f) + exp(set1(0.0f) - x)); }

static inline F8 silu(F8 x) { return x / (set1(1.0f) + exp(set1(0.0f) - x)); }

// log(1 + exp(x)) = max(x, 0) + log(1 + y) with y = exp(-|x|) in (0, 1]; log(1 + y) = 2 artanh(y / (2 + y)),
// whose argument is at most 1/3, so that its series ends after eight terms.
static inline F8 softplus(F8 x) {
    F8 y = exp(set1(0.0f) - abs(x));
    F8 z = y / (set1(2.0f) + y);
    F8 z2 = z * z;
    F8 p = set1(1.0f / 15);
    p = fma(p, z2, set1(1.0f / 13));
    p = fma(p, z2, set1(1.0f / 11));
    p = fma(p, z2, set1(1.0f / 9));
    p = fma(p, z2, set1(1.0f / 7));
    p = fma(p, z2, set1(1.0f / 5));
    p = fma(p, z2, set1(1.0f / 3));
    p = fma(p, z2, set1(1.0f));
    return max(x, set1(0.0f)) + (z + z) * p;
}

static inline F8 gelu_tanh(F8 x) {
    // x * (1 + tanh(u)) / 2 = x * sigmoid(2 u)
    F8 u = x * fma(x * x, set1(0.044715f), set1(1.0f)) * set1(0.7978845608028654f);
    return x * sigmoid(u + u);
}

// erf by Abramowitz and Stegun 7.1.26, absolute error below 1.5e-7.
static inline F8 gelu_exact(F8 x) {
    F8 z = abs(x) * set1(0.70710678118654752f);
    F8 t = set1(1.0f) / fma(z, set1(0.3275911f), set1(1.0f));
    F8 p = set1(1.061405429f);
    p = fma(p, t, set1(-1.453152027f));
    p = fma(p, t, set1(1.421413741f));
    p = fma(p, t, set1(-0.284496736f));
    p = fma(p, t, set1(0.254829592f));
    F8 tail = p * t * exp(set1(0.0f) - z * z); // erfc(z)
    // x * Phi(x): for x >= 0 that is x - x * tail / 2, for x < 0 it is x * tail / 2.
    return max(x, set1(0.0f)) - abs(x) * tail * set1(0.5f);
}

} // namespace QWEN_ISA
} // namespace qw
