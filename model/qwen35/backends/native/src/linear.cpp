// Gated DeltaNet: projections, short convolution, delta rule, gated norm, the way out.
#include "blocks.h"

namespace qw {

namespace {

// Sizes of the convolved rows: all queries, all keys, all values side by side.
struct Channels {
    int keys, values, all;
    explicit Channels(const QwLinear& layer)
        : keys(layer.num_k_heads * layer.k_dim), values(layer.num_v_heads * layer.v_dim),
          all(2 * keys + values) {}
};

// Convolve one head's channels over a sequence; a query's or key's head is then normalised. Heads are
// numbered as their channels lie: queries, keys, values. Rows of `mixed` and `convolved` are `channels.all`
// apart.
void convolve_head(Context& context, const QwLinear& layer, const Channels& channels, int head,
                   int num_tokens, const float* mixed, const QwLinearState& state, float* convolved) {
    const int num_k = layer.num_k_heads;
    const bool is_value = head >= 2 * num_k;
    const int first = is_value ? 2 * channels.keys + (head - 2 * num_k) * layer.v_dim : head * layer.k_dim;
    const int size = is_value ? layer.v_dim : layer.k_dim;
    context.kernels->convolve(mixed, num_tokens, channels.all, layer.conv_width, layer.conv, state.conv_in,
                              state.conv_out, first, first + size, convolved);
    if (is_value) return;
    const float scale = head < num_k ? 1.0f / __builtin_sqrtf(float(layer.k_dim)) : 1.0f;
    for (int t = 0; t < num_tokens; t++) {
        context.kernels->l2_normalise(convolved + size_t(t) * channels.all + first, scale, size);
    }
}

// The delta rule of value head `head`, over one sequence.
void run_head_rule(Context& context, const QwLinear& layer, const Channels& channels, int head,
                   int num_tokens, const float* convolved, const float* decay, const float* beta,
                   const QwLinearState& state, const float* next_state, float* y) {
    const int key_head = head / (layer.num_v_heads / layer.num_k_heads);
    const size_t state_at = size_t(head) * layer.k_dim * layer.v_dim;
    DeltaHead rule;
    rule.num_tokens = num_tokens;
    rule.k_dim = layer.k_dim, rule.v_dim = layer.v_dim;
    rule.q = convolved + key_head * layer.k_dim;
    rule.k = convolved + channels.keys + key_head * layer.k_dim;
    rule.v = convolved + 2 * channels.keys + head * layer.v_dim;
    rule.qk_stride = rule.v_stride = channels.all;
    rule.decay = decay + head, rule.beta = beta + head;
    rule.gate_stride = layer.num_v_heads;
    rule.state_in = state.state_in + state_at, rule.state_out = state.state_out + state_at;
    rule.next_state = next_state;
    rule.y = y + head * layer.v_dim;
    rule.y_stride = channels.values;
    context.kernels->delta_rule(rule);
}

} // namespace

void run_linear(Context& context, const QwLinear& layer, const QwBatch& batch, const QwLinearState* states,
                float* x, float* h, int32_t* chosen, float* weights) {
    const int M = batch.num_rows, B = batch.num_seqs, num_v = layer.num_v_heads;
    const Channels channels(layer);
    const Normed normed = norm_rows(context, layer.input_norm, layer.eps, layer.hidden, x, M);

    Scratch& scratch = context.scratch;
    float* mixed = scratch.take<float>(size_t(M) * channels.all);
    float* convolved = scratch.take<float>(size_t(M) * channels.all);
    float* y = scratch.take<float>(size_t(M) * channels.values);
    float* decay = scratch.take<float>(size_t(M) * num_v);
    float* beta = scratch.take<float>(size_t(M) * num_v);
    const Rows<float> z = take_floats(context, M, channels.values);
    const Rows<float> b = take_floats(context, M, num_v), a = take_floats(context, M, num_v);
    const Inputs inputs = inputs_of(normed.quantised, normed.floats);
    const Product products[] = {
        {layer.in_qkv, inputs, point_at(context, mixed, channels.all, M).rows},
        {layer.in_z, inputs, z.rows},
        {layer.in_b, inputs, b.rows},
        {layer.in_a, inputs, a.rows},
    };
    multiply(context, products, 4);

    // Sequences one after another within a head: one may begin where the one before it ends.
    context.pool.run(2 * layer.num_k_heads + num_v, [&](int head, int) {
        for (int seq = 0; seq < B; seq++) {
            const int first = batch.starts[seq];
            convolve_head(context, layer, channels, head, batch.starts[seq + 1] - first,
                          mixed + size_t(first) * channels.all, states[seq],
                          convolved + size_t(first) * channels.all);
        }
    });
    for (int m = 0; m < M; m++) {
        context.kernels->decay_and_beta(a[m], b[m], layer.dt_bias, layer.neg_a, num_v,
                                        decay + size_t(m) * num_v, beta + size_t(m) * num_v);
    }
    // While a single token passes one state, the next one is fetched: runs of heads for each thread.
    const int num_runs = M == B ? std::min(num_v, 2 * context.pool.num_threads()) : num_v;
    context.pool.run(num_runs, [&](int item, int) {
        const int end = num_v * (item + 1) / num_runs * B;
        const auto state_of = [&](int i) {
            return i < end ? states[i % B].state_in + size_t(i / B) * layer.k_dim * layer.v_dim : nullptr;
        };
        for (int i = num_v * item / num_runs * B; i < end; i++) {
            const int seq = i % B, first = batch.starts[seq];
            run_head_rule(context, layer, channels, i / B, batch.starts[seq + 1] - first,
                          convolved + size_t(first) * channels.all, decay + size_t(first) * num_v,
                          beta + size_t(first) * num_v, states[seq], state_of(i + 1),
                          y + size_t(first) * channels.values);
        }
    });

    const Rows<uint8_t> gated = take_quantised(context, M, channels.values);
    const Rows<float> gated_floats = point_at(context, y, channels.values, M);
    for_rows(context, M, 8, [&](int first, int last, int) {
        for (int m = first; m < last; m++) {
            for (int head = 0; head < num_v; head++) {
                float* out = gated_floats[m] + head * layer.v_dim;
                context.kernels->gated_norm(out, layer.norm, z[m] + head * layer.v_dim, layer.eps,
                                            layer.v_dim, out);
            }
            quantise_row(context, gated_floats[m], channels.values, gated[m]);
        }
    });
    const Rows<float> out = take_floats(context, M, layer.hidden);
    const Product product{layer.out, inputs_of(gated, gated_floats), out.rows};
    multiply(context, &product, 1);
    finish_mixer(context, layer.after, layer.eps, layer.hidden, out, x, h, chosen, weights);
}

} // namespace qw
