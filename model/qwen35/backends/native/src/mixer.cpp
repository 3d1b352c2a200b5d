// What linear and full attention have in common: the norm before, the residual, norm and router after.
#include "blocks.h"

namespace qw {

Normed norm_rows(Context& context, const float* norm, float eps, int size, const float* x, int num_rows) {
    Normed normed{take_floats(context, num_rows, size), take_quantised(context, num_rows, size)};
    for_rows(context, num_rows, 8, [&](int first, int last, int) {
        for (int m = first; m < last; m++) {
            context.kernels->rms_norm(x + size_t(m) * size, norm, eps, size, normed.floats[m]);
            quantise_row(context, normed.floats[m], size, normed.quantised[m]);
        }
    });
    return normed;
}

// The `top_k` largest of E weights, largest first, the lower index first among equals; those chosen are
// scaled to sum to 1. `p` is used up.
static void choose(float* p, int num_experts, int top_k, int32_t* chosen, float* weights) {
    float total = 0.0f;
    for (int rank = 0; rank < top_k; rank++) {
        int best = 0;
        for (int e = 1; e < num_experts; e++) {
            if (p[e] > p[best]) best = e;
        }
        chosen[rank] = best;
        weights[rank] = p[best];
        total += p[best];
        p[best] = -1.0f;
    }
    for (int rank = 0; rank < top_k; rank++) weights[rank] /= total;
}

// What the router chooses for normed rows.
static void route(Context& context, const QwAfter& after, const Rows<float>& normed,
                  const Rows<uint8_t>& quantised, int32_t* chosen, float* weights) {
    const int num_rows = normed.num_rows, num_experts = after.router.n;
    const Rows<float> scores = take_floats(context, num_rows, num_experts);
    const Product product{after.router, inputs_of(quantised, normed), scores.rows};
    multiply(context, &product, 1);
    for_rows(context, num_rows, 8, [&](int first, int last, int) {
        for (int m = first; m < last; m++) {
            context.kernels->exponentiate(scores[m], num_experts); // a softmax, but for a factor that goes
            choose(scores[m], num_experts, after.top_k, chosen + size_t(m) * after.top_k,
                   weights + size_t(m) * after.top_k);
        }
    });
}

void finish_mixer(Context& context, const QwAfter& after, float eps, int size, const Rows<float>& mixed,
                  float* x, float* h, int32_t* chosen, float* weights) {
    const int num_rows = mixed.num_rows;
    const bool has_router = after.router.data != nullptr;
    const Rows<float> normed = point_at(context, h, size, num_rows);
    const Rows<uint8_t> quantised = take_quantised(context, has_router ? num_rows : 0, size);
    for_rows(context, num_rows, 8, [&](int first, int last, int) {
        for (int m = first; m < last; m++) {
            float* row = x + size_t(m) * size;
            context.kernels->add(row, mixed[m], size);
            context.kernels->rms_norm(row, after.norm, eps, size, normed[m]);
            if (has_router) quantise_row(context, normed[m], size, quantised[m]);
        }
    });
    if (has_router) route(context, after, normed, quantised, chosen, weights);
}

void guess_experts(Context& context, const QwAfter& after, float eps, int size, int num_rows, const float* x,
                   int32_t* chosen) {
    const Normed normed = norm_rows(context, after.norm, eps, size, x, num_rows);
    float* weights = context.scratch.take<float>(size_t(num_rows) * after.top_k);
    route(context, after, normed.floats, normed.quantised, chosen, weights);
}

} // namespace qw
