// Activations to int8 in groups of 32; see RowLayout for where the parts go.
#pragma once

#include "../kernels.h"
#include "../simd.h"

namespace qw {
namespace QWEN_ISA {

// q[0..31] as int8, rounded half to even, from values that round to [-127, 127].
static inline void pack_group(const F8* x, int8_t* q) {
#if defined(__AVX2__) && defined(__FMA__)
    __m256i a = _mm256_packs_epi32(_mm256_cvtps_epi32(x[0].v), _mm256_cvtps_epi32(x[1].v));
    __m256i b = _mm256_packs_epi32(_mm256_cvtps_epi32(x[2].v), _mm256_cvtps_epi32(x[3].v));
    // Packing works within 128-bit halves, which leaves runs of four in the order 0 2 4 6 1 3 5 7.
    __m256i bytes =
        _mm256_permutevar8x32_epi32(_mm256_packs_epi16(a, b), _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(q), bytes);
#else
    float lanes[GROUP];
    for (int i = 0; i < GROUP / LANES; i++) store(lanes + i * LANES, round_even(x[i]));
    for (int i = 0; i < GROUP; i++) q[i] = int8_t(lanes[i]);
#endif
}

// Sum of the q, and the bias of int16 dot products.
static inline void group_sums(const int8_t* q, int32_t* sum, int32_t* bias) {
#if defined(__AVX2__) && defined(__FMA__)
    const __m256i all = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q));
    const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), all); // even and odd ones in turns
    __m128i some = _mm_add_epi16(_mm256_castsi256_si128(pairs), _mm256_extracti128_si256(pairs, 1));
    some = _mm_add_epi16(some, _mm_shuffle_epi32(some, 0x4e));
    some = _mm_add_epi16(some, _mm_shuffle_epi32(some, 0xb1));
    *sum = _mm_cvtsi128_si32(_mm_madd_epi16(some, _mm_set1_epi16(1)));
    *bias = _mm_cvtsi128_si32(_mm_mullo_epi16(some, _mm_set1_epi16(-8)));
#else
    int even = 0, odd = 0;
    for (int i = 0; i < GROUP; i += 4) {
        even += q[i] + q[i + 1];
        odd += q[i + 2] + q[i + 3];
    }
    *sum = even + odd;
    *bias = int32_t(uint32_t(uint16_t(-8 * even)) | uint32_t(uint16_t(-8 * odd)) << 16);
#endif
}

// From here on scales and their inverses are normal numbers; a group with less is zero. Processors stumble over
// denormal ones, some twenty times as slow, and softmaxes of trained models hold them.
constexpr float LEAST = 1.5e-36f;

static void quantise(const float* x, int count, int k, int first, int last, uint8_t* row) {
    const RowLayout layout(k);
    for (int g = first; g < last; g++, x += GROUP, count -= GROUP) {
        F8 v[GROUP / LANES];
        F8 largest_lanes = set1(0.0f);
        for (int i = 0; i < GROUP / LANES; i++) {
            const int at = i * LANES;
            v[i] = at < count ? load(x + at, count - at) : set1(0.0f);
            largest_lanes = max(largest_lanes, abs(v[i]));
        }
        const float most = largest(largest_lanes);
        const bool is_zero = most < LEAST;
        const float scale = is_zero ? 0.0f : most / 127.0f, inverse = is_zero ? 0.0f : 127.0f / most;
        for (int i = 0; i < GROUP / LANES; i++) v[i] = v[i] * set1(inverse);
        int8_t* q = layout.q(row) + g * GROUP;
        pack_group(v, q);
        layout.scale(row)[g] = scale;
        group_sums(q, layout.sum(row) + g, layout.bias(row) + g);
    }
}

} // namespace QWEN_ISA
} // namespace qw
