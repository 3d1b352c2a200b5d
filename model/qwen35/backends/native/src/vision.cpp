// The vision encoder: patches to features. Frames never see each other.
#include "blocks.h"
#include "vision_attention.h"

#include <cmath>

namespace qw {

namespace {

class Encoder {
  public:
    Encoder(Context& context, const QwVision& vision, int num_patches, const float* cos, const float* sin,
            const Frame* frames, int num_frames)
        : context_(context), vision_(vision), P_(num_patches), head_dim_(vision.hidden / vision.num_heads),
          cos_(cos), sin_(sin), frames_(frames), num_frames_(num_frames) {}

    void run_block(const QwVisionBlock& block, const Rows<float>& x) const;

  private:
    void norm(const float* w, const float* b, const Rows<float>& x, const Rows<uint8_t>& quantised) const;
    void attend(const Rows<float>& qkv, const Rows<float>& y) const;
    void add(const Rows<float>& x, const Rows<float>& y) const;

    Context& context_;
    const QwVision& vision_;
    int P_, head_dim_;
    const float *cos_, *sin_;
    const Frame* frames_;
    int num_frames_;
};

void Encoder::norm(const float* w, const float* b, const Rows<float>& x,
                   const Rows<uint8_t>& quantised) const {
    const int d = vision_.hidden;
    float* normed = context_.scratch.take<float>(size_t(context_.pool.num_threads()) * d);
    for_rows(context_, P_, 16, [&](int first, int last, int thread) {
        float* row = normed + size_t(thread) * d;
        for (int m = first; m < last; m++) {
            context_.kernels->layer_norm(x[m], w, b, vision_.eps, d, row);
            quantise_row(context_, row, d, quantised[m]);
        }
    });
}

void Encoder::add(const Rows<float>& x, const Rows<float>& y) const {
    for_rows(context_, P_, 64, [&](int first, int last, int) {
        for (int m = first; m < last; m++) context_.kernels->add(x[m], y[m], vision_.hidden);
    });
}

// Turn and scale queries, turn keys, then attend: y (P, d).
void Encoder::attend(const Rows<float>& qkv, const Rows<float>& y) const {
    const int d = vision_.hidden, half = head_dim_ / 2;
    const float scale = 1.0f / std::sqrt(float(head_dim_));
    for_rows(context_, P_, 16, [&](int first, int last, int) {
        for (int m = first; m < last; m++) {
            for (int i = 0; i < d; i++) qkv[m][i] *= scale;
            for (int head = 0; head < 2 * vision_.num_heads; head++) { // queries, then keys
                context_.kernels->rotate(qkv[m] + head * head_dim_, cos_ + size_t(m) * half,
                                         sin_ + size_t(m) * half, half);
            }
        }
    });
    for (int f = 0; f < num_frames_; f++) {
        const Scratch::Scope scope(context_.scratch);
        attend_frame(context_, frames_[f], vision_.num_heads, head_dim_, qkv, y);
    }
}

void Encoder::run_block(const QwVisionBlock& block, const Rows<float>& x) const {
    const int d = vision_.hidden;
    const Rows<uint8_t> normed = take_quantised(context_, P_, d);
    const Rows<float> qkv = take_floats(context_, P_, 3 * d), y = take_floats(context_, P_, d);
    norm(block.norm1_w, block.norm1_b, x, normed);
    const Product to_qkv{block.qkv, inputs_of(normed), qkv.rows, block.qkv_bias};
    multiply(context_, &to_qkv, 1);
    attend(qkv, y);
    for_rows(context_, P_, 16, [&](int first, int last, int) {
        for (int m = first; m < last; m++) quantise_row(context_, y[m], d, normed[m]);
    });
    const Product out{block.proj, inputs_of(normed), y.rows, block.proj_bias};
    multiply(context_, &out, 1);
    add(x, y);

    norm(block.norm2_w, block.norm2_b, x, normed);
    const Rows<uint8_t> hidden = take_quantised(context_, P_, block.fc1.n);
    const Expansion up{block.fc1,         Matrix{},   block.fc1_bias, ACTIVATION_GELU_TANH,
                       inputs_of(normed), hidden.rows};
    expand(context_, &up, 1);
    const Product down{block.fc2, inputs_of(hidden), y.rows, block.fc2_bias};
    multiply(context_, &down, 1);
    add(x, y);
}

// Runs of `merge_rows` normed patches become one token each.
void merge_patches(Context& context, const QwVision& vision, const Rows<float>& x, float* features) {
    const int d = vision.hidden, width = d * vision.merge_rows, M = x.num_rows / vision.merge_rows;
    const Rows<uint8_t> merged = take_quantised(context, M, width);
    const Rows<uint8_t> hidden = take_quantised(context, M, vision.merger_fc1.n);
    float* rows = context.scratch.take<float>(size_t(context.pool.num_threads()) * width);
    for_rows(context, M, 4, [&](int first, int last, int thread) {
        float* row = rows + size_t(thread) * width;
        for (int m = first; m < last; m++) {
            for (int i = 0; i < vision.merge_rows; i++) {
                context.kernels->layer_norm(x[m * vision.merge_rows + i], vision.merger_norm_w,
                                            vision.merger_norm_b, vision.eps, d, row + i * d);
            }
            quantise_row(context, row, width, merged[m]);
        }
    });
    const Expansion up{vision.merger_fc1,     Matrix{},          vision.merger_fc1_bias,
                       ACTIVATION_GELU_EXACT, inputs_of(merged), hidden.rows};
    expand(context, &up, 1);
    const Product down{vision.merger_fc2, inputs_of(hidden),
                       point_at(context, features, vision.merger_fc2.n, M).rows, vision.merger_fc2_bias};
    multiply(context, &down, 1);
}

} // namespace

void run_vision(Context& context, const QwVision& vision, const float* patches, int num_patches,
                const float* positions, const float* cos, const float* sin, const int32_t* frames,
                int num_frames, float* features) {
    const int values = vision.patch_embed.k, d = vision.hidden;
    Frame* runs = context.scratch.take<Frame>(num_frames);
    for (int f = 0, start = 0; f < num_frames; start += frames[f++]) runs[f] = {start, frames[f]};

    const Rows<float> x = take_floats(context, num_patches, d);
    const Rows<uint8_t> quantised = take_quantised(context, num_patches, values);
    for_rows(context, num_patches, 16, [&](int first, int last, int) {
        for (int m = first; m < last; m++)
            quantise_row(context, patches + size_t(m) * values, values, quantised[m]);
    });
    const Product embedding{vision.patch_embed, inputs_of(quantised), x.rows, vision.patch_bias};
    multiply(context, &embedding, 1);
    for_rows(context, num_patches, 64, [&](int first, int last, int) {
        for (int m = first; m < last; m++) context.kernels->add(x[m], positions + size_t(m) * d, d);
    });
    const Encoder encoder(context, vision, num_patches, cos, sin, runs, num_frames);
    for (int i = 0; i < vision.depth; i++) {
        const Scratch::Scope scope(context.scratch);
        encoder.run_block(vision.blocks[i], x);
    }
    merge_patches(context, vision, x, features);
}

} // namespace qw
