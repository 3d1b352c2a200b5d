// Weights to packed tiles: the search for scales that weights/quantize.py defines, to the last bit.
//
// A lane is a row. Eight rows' groups of 32 columns are in work at a time and never meet, so that each step
// is the definition's own, eight times over, whatever the instruction set.
#pragma once

#include <algorithm>

#include "../kernels.h"
#include "../simd.h"
#include "matmul.h"

namespace qw {
namespace QWEN_ISA {

struct Bf16 {
    uint16_t bits;
};
struct Half {
    uint16_t bits;
};

// LOWEST and HIGHEST bound q. A start s proposes the scale m / -s, where m is the weight farthest from zero.
struct Quant4 {
    static constexpr int BLOCK_BYTES = Q4_BLOCK_BYTES;
    static constexpr float LOWEST = -8.0f, HIGHEST = 7.0f;
    static constexpr float STARTS[] = {8.0f, 7.25f, 8.75f};
};
struct Quant8 {
    static constexpr int BLOCK_BYTES = Q8_BLOCK_BYTES;
    static constexpr float LOWEST = -127.0f, HIGHEST = 127.0f;
    static constexpr float STARTS[] = {127.0f, 126.0f};
};

constexpr float MAX_WEIGHT = 262144.0f; // 2^18

static inline F8 load_numbers(const float* p) { return load(p); }
static inline F8 load_numbers(const Bf16* p) { return load_bf16(&p->bits); }

#if defined(__AVX2__) && defined(__F16C__)

static inline F8 load_numbers(const Half* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}
static inline void store_halves(F8 x, uint8_t* out) {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
}
// To fp16 and back: to the nearest, ties to even, but below fp16's normal numbers away from zero; -0 is 0.
static inline F8 round_to_half(F8 x) {
    const __m256 rounded = _mm256_cvtph_ps(_mm256_cvtps_ph(x.v, _MM_FROUND_TO_NEAREST_INT));
    const __m256 sign = _mm256_set1_ps(-0.0f);
    const __m256 magnitude = _mm256_andnot_ps(sign, x.v);
    const __m256 steps = _mm256_ceil_ps(_mm256_mul_ps(magnitude, _mm256_set1_ps(0x1p24f)));
    const __m256 raised =
        _mm256_or_ps(_mm256_mul_ps(steps, _mm256_set1_ps(0x1p-24f)), _mm256_and_ps(sign, x.v));
    const __m256 is_tiny = _mm256_cmp_ps(magnitude, _mm256_set1_ps(0x1p-14f), _CMP_LT_OQ);
    return {_mm256_add_ps(_mm256_blendv_ps(rounded, raised, is_tiny), _mm256_setzero_ps())};
}
// Eight rows of eight columns to eight columns of eight rows.
static inline void transpose(F8* x) {
    __m256 pairs[8], fours[8];
    for (int i = 0; i < 8; i += 2) {
        pairs[i] = _mm256_unpacklo_ps(x[i].v, x[i + 1].v);
        pairs[i + 1] = _mm256_unpackhi_ps(x[i].v, x[i + 1].v);
    }
    for (int i = 0; i < 8; i += 4) {
        fours[i] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0x44);
        fours[i + 1] = _mm256_shuffle_ps(pairs[i], pairs[i + 2], 0xee);
        fours[i + 2] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0x44);
        fours[i + 3] = _mm256_shuffle_ps(pairs[i + 1], pairs[i + 3], 0xee);
    }
    for (int i = 0; i < 4; i++) {
        x[i].v = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x20);
        x[i + 4].v = _mm256_permute2f128_ps(fours[i], fours[i + 4], 0x31);
    }
}
// Four columns of whole numbers as bytes, side by side in each row's word; `flip` is applied to the word.
static inline void store_words(const F8* x, uint32_t flip, uint8_t* out) {
    // Exact: three bytes have 24 bits.
    const F8 low = x[0] + (x[1] * set1(0x1p8f) + x[2] * set1(0x1p16f));
    const __m256i high = _mm256_slli_epi32(_mm256_cvtps_epi32(x[3].v), 24);
    const __m256i words = _mm256_or_si256(_mm256_cvtps_epi32(low.v), high);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                        _mm256_xor_si256(words, _mm256_set1_epi32(int(flip))));
}

#else

static inline F8 load_numbers(const Half* p) {
    float lanes[LANES];
    for (int i = 0; i < LANES; i++) lanes[i] = half_to_float(p[i].bits);
    return load(lanes);
}
static inline void store_halves(F8 x, uint8_t* out) {
    float lanes[LANES];
    store(lanes, x);
    for (int i = 0; i < LANES; i++) {
        uint32_t bits;
        memcpy(&bits, &lanes[i], sizeof bits);
        const uint32_t sign = bits >> 16 & 0x8000;
        const float magnitude = __builtin_fabsf(lanes[i]);
        const uint32_t rest =
            magnitude < 0x1p-14f ? uint32_t(magnitude * 0x1p24f) : ((bits & 0x7fffffff) >> 13) - (112u << 10);
        const uint16_t half = uint16_t(sign | rest);
        memcpy(out + 2 * i, &half, sizeof half);
    }
}
static inline F8 round_to_half(F8 x) {
    float lanes[LANES];
    store(lanes, x);
    for (int i = 0; i < LANES; i++) {
        uint32_t bits;
        memcpy(&bits, &lanes[i], sizeof bits);
        bits = (bits + 0xfff + (bits >> 13 & 1)) & ~0x1fffu;
        float rounded;
        memcpy(&rounded, &bits, sizeof rounded);
        const float magnitude = __builtin_fabsf(lanes[i]);
        const float raised = __builtin_ceilf(magnitude * 0x1p24f) * 0x1p-24f;
        lanes[i] = (magnitude < 0x1p-14f ? __builtin_copysignf(raised, lanes[i]) : rounded) + 0.0f;
    }
    return load(lanes);
}
static inline void transpose(F8* x) {
    float from[LANES][LANES], to[LANES][LANES];
    for (int i = 0; i < LANES; i++) store(from[i], x[i]);
    for (int i = 0; i < LANES; i++)
        for (int j = 0; j < LANES; j++) to[j][i] = from[i][j];
    for (int i = 0; i < LANES; i++) x[i] = load(to[i]);
}
static inline void store_words(const F8* x, uint32_t flip, uint8_t* out) {
    float lanes[4][LANES];
    for (int b = 0; b < 4; b++) store(lanes[b], x[b]);
    for (int i = 0; i < LANES; i++) {
        uint32_t word = 0;
        for (int b = 0; b < 4; b++) word |= uint32_t(lanes[b][i]) << (8 * b);
        word ^= flip;
        memcpy(out + 4 * i, &word, sizeof word);
    }
}

#endif

// Of |x| < 2^22.
static inline F8 round_small(F8 x) {
#if defined(__AVX2__) || defined(QWEN_NEON)
    return round_even(x);
#else
    const F8 shift = set1(0x1.8p23f); // no call of a function for each number
    return (x + shift) - shift;
#endif
}

// The sum of x(0) .. x(31) as defined: half onto half, down to one. Each quarter stays in registers.
template <class Term>
static inline F8 sum_group(const Term& x) {
    F8 quarters[4];
    for (int i = 0; i < 4; i++) {
        quarters[i] = ((x(i) + x(i + 16)) + (x(i + 8) + x(i + 24))) +
                      ((x(i + 4) + x(i + 20)) + (x(i + 12) + x(i + 28)));
    }
    return (quarters[0] + quarters[2]) + (quarters[1] + quarters[3]);
}

// A group of each lane's row on its way to q and scale.
struct Search {
    F8 w[GROUP];
    F8 farthest;       // of w from zero
    F8 scale, error;   // the best so far
    F8 other, inverse; // the scale to be tried, and 1 / it or 0
    F8 q[GROUP], other_q[GROUP];
};

static inline F8 inverse_of(F8 scale) {
    return where_less(set1(0.0f), abs(scale), set1(1.0f) / scale, set1(0.0f));
}
static inline void propose(Search& search, F8 scale) {
    search.other = round_to_half(scale);
    search.inverse = inverse_of(search.other);
}

template <class Quant>
static inline F8 whole(F8 w, F8 inverse) {
    return min(max(round_small(w * inverse), set1(Quant::LOWEST)), set1(Quant::HIGHEST));
}
static inline F8 squared(F8 x) { return x * x; }

static inline void begin(Search& search) {
    F8 greatest = search.w[0], least = search.w[0];
    for (int i = 1; i < GROUP; i++) {
        greatest = max(greatest, search.w[i]);
        least = min(least, search.w[i]);
    }
    search.farthest = where_less(greatest, set1(0.0f) - least, least, greatest);
    search.scale = set1(0.0f);
    search.error = set1(__builtin_inff());
}

// Takes the scale that `start` proposed where its error is smaller.
template <class Quant>
static inline void try_start(Search& search, float start) {
    const F8 *w = search.w, other = search.other, inverse = search.inverse;
    F8 error;
    // fp16 makes a scale smaller by 1/2048 at most: with such a start nothing is to be cut.
    if (start < Quant::HIGHEST + 0.4f) {
        error = sum_group([&](int i) { return squared(w[i] - round_small(w[i] * inverse) * other); });
    } else {
        error = sum_group([&](int i) { return squared(w[i] - whole<Quant>(w[i], inverse) * other); });
    }
    search.scale = where_less(error, search.error, other, search.scale);
    search.error = where_less(error, search.error, error, search.error);
}

// Proposes the scale that fits best to the q of the best so far.
template <class Quant>
static inline void refine(Search& search) {
    const F8 *w = search.w, inverse = inverse_of(search.scale);
    F8* q = search.q;
    const F8 dot = sum_group([&](int i) {
        q[i] = whole<Quant>(w[i], inverse);
        return w[i] * q[i];
    });
    const F8 norm = sum_group([&](int i) { return squared(q[i]); });
    propose(search, where_less(set1(0.0f), norm, dot / norm, set1(0.0f)));
}

template <class Quant>
static inline void try_refined(Search& search) {
    const F8 *w = search.w, other = search.other, inverse = search.inverse;
    F8 *q = search.q, *other_q = search.other_q;
    const F8 error = sum_group([&](int i) {
        other_q[i] = whole<Quant>(w[i], inverse);
        return squared(w[i] - other_q[i] * other);
    });
    for (int i = 0; i < GROUP; i++) q[i] = where_less(error, search.error, other_q[i], q[i]);
    search.scale = where_less(error, search.error, other, search.scale);
}

// The searches of a block, a step of each at a time: while one waits for a quotient, the others have work.
constexpr int SEARCHES = TILE_ROWS / LANES * (TILE_COLS / GROUP);

template <class Quant>
static inline void run(Search* searches, F8* is_bad) {
    for (int s = 0; s < SEARCHES; s++) begin(searches[s]);
    for (float start : Quant::STARTS) {
        for (int s = 0; s < SEARCHES; s++) propose(searches[s], searches[s].farthest / set1(-start));
        for (int s = 0; s < SEARCHES; s++) try_start<Quant>(searches[s], start);
    }
    for (int s = 0; s < SEARCHES; s++) refine<Quant>(searches[s]);
    for (int s = 0; s < SEARCHES; s++) {
        const F8 one = set1(1.0f);
        // Greatest and least may have passed over what is no number; the error has not.
        *is_bad = where_less(searches[s].error, set1(__builtin_inff()), *is_bad, one);
        *is_bad = where_less(set1(MAX_WEIGHT), abs(searches[s].farthest), one, *is_bad);
        try_refined<Quant>(searches[s]);
    }
}

// A group's 32 columns of eight rows, from the first number on; `stride` numbers from row to row.
template <class Number>
static inline void load_group(const Number* first, int64_t stride, F8* w) {
    for (int i = 0; i < GROUP; i += LANES) {
        for (int r = 0; r < LANES; r++) w[i + r] = load_numbers(first + r * stride + i);
        transpose(w + i);
    }
}
// Of these only `num_rows` and `num_columns` are there; the others are zero.
template <class Number>
static inline void load_part(const Number* first, int64_t stride, int num_rows, int num_columns, F8* w) {
    Number numbers[LANES * GROUP] = {};
    for (int r = 0; r < num_rows; r++)
        for (int i = 0; i < num_columns; i++) numbers[r * GROUP + i] = first[r * stride + i];
    load_group(numbers, GROUP, w);
}

// The lines of half a block, from the first of its eight rows on.
static inline void store_lines(Quant4, const Search* groups, uint8_t* out) {
    for (int j = 0; j < 8; j++) {
        F8 both[4];
        for (int b = 0; b < 4; b++) {
            both[b] = groups[1].q[4 * j + b] * set1(16.0f) + (groups[0].q[4 * j + b] + set1(8 * 16 + 8.0f));
        }
        store_words(both, 0, out + j * 64);
    }
}
static inline void store_lines(Quant8, const Search* groups, uint8_t* out) {
    for (int j = 0; j < 16; j++) {
        F8 raised[4]; // q + 128, which is q's byte but for the uppermost bit
        for (int b = 0; b < 4; b++) raised[b] = groups[j / 8].q[j % 8 * 4 + b] + set1(128.0f);
        store_words(raised, 0x80808080, out + j * 64);
    }
}

template <class Quant, class Number>
static bool quantise_numbers(const Number* w, int64_t n, int64_t k, uint8_t* out) {
    F8 is_bad = set1(0.0f);
    Search searches[SEARCHES]; // the two groups of the upper eight rows, then those of the lower
    for (int64_t top = 0; top < n; top += TILE_ROWS) {
        for (int64_t left = 0; left < k; left += TILE_COLS, out += Quant::BLOCK_BYTES) {
            for (int s = 0; s < SEARCHES; s++) {
                const int64_t row = top + s / 2 * LANES, column = left + s % 2 * GROUP;
                const int num_rows = int(std::min<int64_t>(LANES, n - row));
                const int num_columns = int(std::min<int64_t>(GROUP, k - column));
                if (num_rows == LANES && num_columns == GROUP) {
                    load_group(w + row * k + column, k, searches[s].w);
                } else {
                    load_part(w + row * k + column, k, num_rows, num_columns, searches[s].w);
                }
            }
            run<Quant>(searches, &is_bad);
            for (int s = 0; s < SEARCHES; s++) {
                store_halves(searches[s].scale, out + 2 * (s % 2 * TILE_ROWS + s / 2 * LANES));
            }
            for (int half = 0; half < 2; half++) {
                store_lines(Quant(), searches + 2 * half, out + SCALE_BYTES + 4 * half * LANES);
            }
        }
    }
    return largest(is_bad) == 0.0f;
}

template <class Quant>
static bool quantise_as(const void* w, NumberType type, int64_t n, int64_t k, uint8_t* out) {
    switch (type) {
    case NUMBER_F32:
        return quantise_numbers<Quant>(static_cast<const float*>(w), n, k, out);
    case NUMBER_F16:
        return quantise_numbers<Quant>(static_cast<const Half*>(w), n, k, out);
    case NUMBER_BF16:
        return quantise_numbers<Quant>(static_cast<const Bf16*>(w), n, k, out);
    }
    return false;
}

static bool quantise_weights(const void* w, NumberType type, int64_t n, int64_t k, Format format,
                             uint8_t* out) {
    return format == FORMAT_Q4 ? quantise_as<Quant4>(w, type, n, k, out)
                               : quantise_as<Quant8>(w, type, n, k, out);
}

} // namespace QWEN_ISA
} // namespace qw
