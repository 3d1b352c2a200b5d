// Eight floats that behave the same on every processor.
//
// All kernels but the integer dot products are written once, in terms of F8, and compiled once for each
// instruction set (QWEN_ISA names the namespace). Every operation is one correctly rounded IEEE operation
// per lane and sums over lanes have one fixed order, so that all instruction sets agree bit for bit. The
// compiler may not contract a * b + c on its own (-ffp-contract=off); where a fused one is meant, it says
// fma.
#pragma once

#include <cstdint>
#include <cstring>

#if defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
#elif defined(__aarch64__) && defined(QWEN_NEON)
#include <arm_neon.h>
#endif

namespace qw {
namespace QWEN_ISA {

constexpr int LANES = 8;

#if defined(__AVX2__) && defined(__FMA__)

struct F8 {
    __m256 v;
};
static inline F8 load(const float* p) { return {_mm256_loadu_ps(p)}; }
static inline void store(float* p, F8 a) { _mm256_storeu_ps(p, a.v); }
static inline F8 set1(float x) { return {_mm256_set1_ps(x)}; }
// Stays in a register: compilers would load it again for each use.
static inline void hold(F8& a) { asm("" : "+x"(a.v)); }
static inline F8 operator+(F8 a, F8 b) { return {_mm256_add_ps(a.v, b.v)}; }
static inline F8 operator-(F8 a, F8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
static inline F8 operator*(F8 a, F8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
static inline F8 operator/(F8 a, F8 b) { return {_mm256_div_ps(a.v, b.v)}; }
static inline F8 fma(F8 a, F8 b, F8 c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
static inline F8 max(F8 a, F8 b) { return {_mm256_max_ps(a.v, b.v)}; }
static inline F8 min(F8 a, F8 b) { return {_mm256_min_ps(a.v, b.v)}; }
static inline F8 abs(F8 a) { return {_mm256_andnot_ps(_mm256_set1_ps(-0.0f), a.v)}; }
// a < b ? yes : no, lane by lane.
static inline F8 where_less(F8 a, F8 b, F8 yes, F8 no) {
    return {_mm256_blendv_ps(no.v, yes.v, _mm256_cmp_ps(a.v, b.v, _CMP_LT_OQ))};
}
static inline F8 round_even(F8 a) {
    return {_mm256_round_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2^n for whole n in [-126, 127].
static inline F8 exp2_whole(F8 n) {
    __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
}
// ((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))
static inline float sum(F8 a) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
// Lane i is sum(a[i]).
static inline F8 sums(const F8* a) {
    __m256 halves[4], quarters[2];
    for (int i = 0; i < 4; i++) {
        const __m256 x = a[2 * i].v, y = a[2 * i + 1].v;
        halves[i] = _mm256_add_ps(_mm256_permute2f128_ps(x, y, 0x20), _mm256_permute2f128_ps(x, y, 0x31));
    } // (0 + 4, 1 + 5, 2 + 6, 3 + 7) of an even one, then of an odd one
    for (int i = 0; i < 2; i++) {
        const __m256 x = halves[2 * i], y = halves[2 * i + 1];
        quarters[i] = _mm256_add_ps(_mm256_shuffle_ps(x, y, 0x44), _mm256_shuffle_ps(x, y, 0xee));
    } // of 4i, 4i + 2 below and of 4i + 1, 4i + 3 above, two numbers each
    const __m256 x = quarters[0], y = quarters[1];
    const __m256 whole = _mm256_add_ps(_mm256_shuffle_ps(x, y, 0x88), _mm256_shuffle_ps(x, y, 0xdd));
    // lanes now: 0, 2, 4, 6, 1, 3, 5, 7
    return {_mm256_permutevar8x32_ps(whole, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7))};
}
static inline float largest(F8 a) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
static inline F8 load_bf16(const uint16_t* p) {
    __m256i wide = _mm256_cvtepu16_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(wide, 16))};
}

#elif defined(__aarch64__) && defined(QWEN_NEON)

struct F8 {
    float32x4_t a, b;
};
static inline F8 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
static inline void store(float* p, F8 x) {
    vst1q_f32(p, x.a);
    vst1q_f32(p + 4, x.b);
}
static inline F8 set1(float x) { return {vdupq_n_f32(x), vdupq_n_f32(x)}; }
static inline F8 operator+(F8 x, F8 y) { return {vaddq_f32(x.a, y.a), vaddq_f32(x.b, y.b)}; }
static inline F8 operator-(F8 x, F8 y) { return {vsubq_f32(x.a, y.a), vsubq_f32(x.b, y.b)}; }
static inline F8 operator*(F8 x, F8 y) { return {vmulq_f32(x.a, y.a), vmulq_f32(x.b, y.b)}; }
static inline F8 operator/(F8 x, F8 y) { return {vdivq_f32(x.a, y.a), vdivq_f32(x.b, y.b)}; }
static inline F8 fma(F8 x, F8 y, F8 z) { return {vfmaq_f32(z.a, x.a, y.a), vfmaq_f32(z.b, x.b, y.b)}; }
static inline F8 max(F8 x, F8 y) { return {vmaxq_f32(x.a, y.a), vmaxq_f32(x.b, y.b)}; }
static inline F8 min(F8 x, F8 y) { return {vminq_f32(x.a, y.a), vminq_f32(x.b, y.b)}; }
static inline F8 abs(F8 x) { return {vabsq_f32(x.a), vabsq_f32(x.b)}; }
static inline F8 where_less(F8 x, F8 y, F8 yes, F8 no) {
    return {vbslq_f32(vcltq_f32(x.a, y.a), yes.a, no.a), vbslq_f32(vcltq_f32(x.b, y.b), yes.b, no.b)};
}
static inline F8 round_even(F8 x) { return {vrndnq_f32(x.a), vrndnq_f32(x.b)}; }
static inline float32x4_t exp2_whole_half(float32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vcvtnq_s32_f32(n), vdupq_n_s32(127)), 23));
}
static inline F8 exp2_whole(F8 n) { return {exp2_whole_half(n.a), exp2_whole_half(n.b)}; }
static inline float sum(F8 x) {
    float32x4_t four = vaddq_f32(x.a, x.b);
    float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
    return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
static inline F8 load_bf16(const uint16_t* p) {
    uint16x8_t bits = vld1q_u16(p);
    return {vreinterpretq_f32_u32(vshll_n_u16(vget_low_u16(bits), 16)),
            vreinterpretq_f32_u32(vshll_n_u16(vget_high_u16(bits), 16))};
}

#else

struct F8 {
    float v[LANES];
};
template <class Operation>
static inline F8 each_lane(Operation operation) {
    F8 y;
    for (int i = 0; i < LANES; i++) y.v[i] = operation(i);
    return y;
}
static inline F8 load(const float* p) {
    F8 y;
    memcpy(y.v, p, sizeof y.v);
    return y;
}
static inline void store(float* p, F8 a) { memcpy(p, a.v, sizeof a.v); }
static inline F8 set1(float x) {
    return each_lane([&](int) { return x; });
}
static inline F8 operator+(F8 a, F8 b) {
    return each_lane([&](int i) { return a.v[i] + b.v[i]; });
}
static inline F8 operator-(F8 a, F8 b) {
    return each_lane([&](int i) { return a.v[i] - b.v[i]; });
}
static inline F8 operator*(F8 a, F8 b) {
    return each_lane([&](int i) { return a.v[i] * b.v[i]; });
}
static inline F8 operator/(F8 a, F8 b) {
    return each_lane([&](int i) { return a.v[i] / b.v[i]; });
}
static inline F8 fma(F8 a, F8 b, F8 c) {
    return each_lane([&](int i) { return __builtin_fmaf(a.v[i], b.v[i], c.v[i]); });
}
static inline F8 max(F8 a, F8 b) {
    return each_lane([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
}
static inline F8 min(F8 a, F8 b) {
    return each_lane([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
}
static inline F8 abs(F8 a) {
    return each_lane([&](int i) { return __builtin_fabsf(a.v[i]); });
}
static inline F8 where_less(F8 a, F8 b, F8 yes, F8 no) {
    return each_lane([&](int i) { return a.v[i] < b.v[i] ? yes.v[i] : no.v[i]; });
}
static inline F8 round_even(F8 a) {
    return each_lane([&](int i) { return __builtin_nearbyintf(a.v[i]); });
}
static inline F8 exp2_whole(F8 n) {
    return each_lane([&](int i) {
        int32_t bits = (int32_t(n.v[i]) + 127) << 23;
        float y;
        memcpy(&y, &bits, sizeof y);
        return y;
    });
}
static inline float sum(F8 a) {
    const float* v = a.v;
    return ((v[0] + v[4]) + (v[2] + v[6])) + ((v[1] + v[5]) + (v[3] + v[7]));
}
static inline F8 load_bf16(const uint16_t* p) {
    return each_lane([&](int i) {
        uint32_t bits = uint32_t(p[i]) << 16;
        float y;
        memcpy(&y, &bits, sizeof y);
        return y;
    });
}

#endif

#if !(defined(__AVX2__) && defined(__FMA__))
static inline void hold(F8&) {}
// Lane i is sum(a[i]).
static inline F8 sums(const F8* a) {
    float lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = sum(a[i]);
    return load(lanes);
}
static inline float largest(F8 a) {
    float lanes[LANES];
    store(lanes, a);
    float y = lanes[0];
    for (int i = 1; i < LANES; i++) y = lanes[i] > y ? lanes[i] : y;
    return y;
}
#endif

// The last vector of an array may be short: `count` floats are touched, the other lanes are zero.
static inline F8 load(const float* p, int count) {
    if (count >= LANES) return load(p);
    float lanes[LANES] = {};
    for (int i = 0; i < count; i++) lanes[i] = p[i];
    return load(lanes);
}
static inline void store(float* p, F8 a, int count) {
    if (count >= LANES) return store(p, a);
    float lanes[LANES];
    store(lanes, a);
    for (int i = 0; i < count; i++) p[i] = lanes[i];
}
static inline F8 load_bf16(const uint16_t* p, int count) {
    if (count >= LANES) return load_bf16(p);
    uint16_t lanes[LANES] = {};
    for (int i = 0; i < count; i++) lanes[i] = p[i];
    return load_bf16(lanes);
}

// To bfloat16, round to nearest even. Not for NaN.
static inline uint16_t to_bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return uint16_t((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
static inline float from_bf16(uint16_t half) {
    uint32_t bits = uint32_t(half) << 16;
    float y;
    memcpy(&y, &bits, sizeof y);
    return y;
}
static inline F8 round_to_bf16(F8 x) {
#if defined(__AVX2__) && defined(__FMA__)
    __m256i bits = _mm256_castps_si256(x.v);
    __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    bits = _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    return {_mm256_castsi256_ps(_mm256_and_si256(bits, _mm256_set1_epi32(int(0xffff0000))))};
#else
    float lanes[LANES];
    store(lanes, x);
    for (int i = 0; i < LANES; i++) lanes[i] = from_bf16(to_bf16(lanes[i]));
    return load(lanes);
#endif
}

// Rounded likewise; `count` numbers at most.
static inline void store_bf16(uint16_t* p, F8 x, int count) {
#if defined(__AVX2__) && defined(__FMA__)
    if (count >= LANES) {
        __m256i bits = _mm256_srli_epi32(_mm256_castps_si256(round_to_bf16(x).v), 16);
        __m128i low = _mm256_castsi256_si128(bits), high = _mm256_extracti128_si256(bits, 1);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_packus_epi32(low, high));
        return;
    }
#endif
    float lanes[LANES];
    store(lanes, x);
    for (int i = 0; i < LANES && i < count; i++) p[i] = to_bf16(lanes[i]);
}

} // namespace QWEN_ISA
} // namespace qw
