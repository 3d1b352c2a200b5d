// The blocks of the text model, each over all rows of a call. See abi.h for what they take.
#pragma once

#include "abi.h"
#include "gemm.h"

namespace qw {

// A mixer's input: the normed rows, as floats and quantised.
struct Normed {
    Rows<float> floats;
    Rows<uint8_t> quantised;
};
Normed norm_rows(Context& context, const float* norm, float eps, int size, const float* x, int num_rows);

// A mixer's end: x += mixed, h = norm(x), and the router's choice where there is one.
void finish_mixer(Context& context, const QwAfter& after, float eps, int size, const Rows<float>& mixed,
                  float* x, float* h, int32_t* chosen, float* weights);
// What the router would choose for x as it is, before the mixer has changed it.
void guess_experts(Context& context, const QwAfter& after, float eps, int size, int num_rows, const float* x,
                   int32_t* chosen);

void run_linear(Context& context, const QwLinear& layer, const QwBatch& batch, const QwLinearState* states,
                float* x, float* h, int32_t* chosen, float* weights);
void run_attention(Context& context, const QwAttention& layer, const QwBatch& batch,
                   const QwKeyValues* blocks, float* x, float* h, int32_t* chosen, float* weights);
void run_mlp(Context& context, const QwMlp& layer, int num_rows, const float* h, float* x);
// A mixture in two steps, between which experts may be fetched: what the `wanted` (E; null: all) chosen
// experts make of their rows goes to y (M * A, D), by slot (row * A + rank), and, where `shared` is not null,
// what the shared expert makes to `shared` (M, D). Then experts are summed in rank order, and the shared one
// last: never in the order in which they came. `y` is used up.
void run_experts(Context& context, const QwMoe& layer, int num_rows, const float* h, const int32_t* chosen,
                 const void* const* records, const uint8_t* wanted, float* y, float* shared);
void sum_experts(Context& context, const QwMoe& layer, int num_rows, const float* weights, float* y,
                 const float* shared, float* x);
void run_moe(Context& context, const QwMoe& layer, int num_rows, const float* h, const int32_t* chosen,
             const float* weights, const void* const* records, float* x);

void embed(const Matrix& table, const int64_t* ids, int num_rows, float* x);
void run_head(Context& context, const float* norm, float eps, const Matrix& head, const float* x,
              const int32_t* rows, int num_rows, float* logits);
void run_vision(Context& context, const QwVision& vision, const float* patches, int num_patches,
                const float* positions, const float* cos, const float* sin, const int32_t* frames,
                int num_frames, float* features);

} // namespace qw
