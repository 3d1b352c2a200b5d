// The C functions: give each call the whole scratch memory, and turn a failed allocation into a number.
#include "abi.h"

#include "blocks.h"
#include "dispatch.h"
#include "readers.h"

namespace {

#ifndef QWEN_SOURCE_HASH
#define QWEN_SOURCE_HASH "unknown"
#endif

template <class Body>
int32_t call(QwContext* context, const Body& body) {
    try {
        context->scratch.reset();
        body();
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

} // namespace

extern "C" {

const char* qw_source_hash(void) { return QWEN_SOURCE_HASH; }

QwContext* qw_create(int32_t num_threads, const char* isa) {
    const qw::Kernels* kernels = qw::choose_kernels(isa);
    if (!kernels) return nullptr;
    try {
        return new QwContext(num_threads < 1 ? 1 : num_threads, kernels);
    } catch (const std::exception&) { // no memory, or no thread
        return nullptr;
    }
}

void qw_destroy(QwContext* context) { delete context; }

const char* qw_isa(const QwContext* context) { return context->kernels->name; }

int32_t qw_embed(QwContext* context, const QwMatrix* table, const int64_t* ids, int32_t num_rows, float* x) {
    return call(context, [&] { qw::embed(*table, ids, num_rows, x); });
}

int32_t qw_linear(QwContext* context, const QwLinear* layer, const QwBatch* batch,
                  const QwLinearState* states, float* x, float* h, int32_t* chosen, float* weights) {
    return call(context, [&] { qw::run_linear(*context, *layer, *batch, states, x, h, chosen, weights); });
}

int32_t qw_attention(QwContext* context, const QwAttention* layer, const QwBatch* batch,
                     const QwKeyValues* blocks, float* x, float* h, int32_t* chosen, float* weights) {
    return call(context, [&] { qw::run_attention(*context, *layer, *batch, blocks, x, h, chosen, weights); });
}

int32_t qw_guess(QwContext* context, const QwAfter* after, float eps, int32_t hidden, int32_t num_rows,
                 const float* x, int32_t* chosen) {
    return call(context, [&] { qw::guess_experts(*context, *after, eps, hidden, num_rows, x, chosen); });
}

int32_t qw_mlp(QwContext* context, const QwMlp* layer, int32_t num_rows, const float* h, float* x) {
    return call(context, [&] { qw::run_mlp(*context, *layer, num_rows, h, x); });
}

int32_t qw_moe(QwContext* context, const QwMoe* layer, int32_t num_rows, const float* h,
               const int32_t* chosen, const float* weights, const void* const* records, float* x) {
    return call(context, [&] { qw::run_moe(*context, *layer, num_rows, h, chosen, weights, records, x); });
}

int32_t qw_experts(QwContext* context, const QwMoe* layer, int32_t num_rows, const float* h,
                   const int32_t* chosen, const void* const* records, const uint8_t* wanted, float* y,
                   float* shared) {
    return call(context, [&] {
        qw::run_experts(*context, *layer, num_rows, h, chosen, records, wanted, y, shared);
    });
}

int32_t qw_sum_experts(QwContext* context, const QwMoe* layer, int32_t num_rows, const float* weights,
                       float* y, const float* shared, float* x) {
    return call(context, [&] { qw::sum_experts(*context, *layer, num_rows, weights, y, shared, x); });
}

int32_t qw_head(QwContext* context, const float* norm, float eps, const QwMatrix* head, const float* x,
                const int32_t* rows, int32_t num_rows, float* logits) {
    return call(context, [&] { qw::run_head(*context, norm, eps, *head, x, rows, num_rows, logits); });
}

int32_t qw_vision(QwContext* context, const QwVision* vision, const float* patches, int32_t num_patches,
                  const float* positions, const float* cos, const float* sin, const int32_t* frames,
                  int32_t num_frames, float* features) {
    return call(context, [&] {
        qw::run_vision(*context, *vision, patches, num_patches, positions, cos, sin, frames, num_frames,
                       features);
    });
}

int32_t qw_quantise(const QwContext* context, const void* weights, int32_t type, int64_t n, int64_t k,
                    int32_t format, uint8_t* tiles) {
    const bool is_held =
        context->kernels->quantise_weights(weights, qw::NumberType(type), n, k, qw::Format(format), tiles);
    return is_held ? 0 : 2;
}

QwReaders* qw_readers_create(int32_t num_threads, int32_t later_at_once) {
    try {
        return new QwReaders(num_threads, later_at_once);
    } catch (const std::exception&) {
        return nullptr;
    }
}

void qw_readers_destroy(QwReaders* readers) { delete readers; }

int32_t qw_readers_submit(QwReaders* readers, QwRead* const* reads, int32_t count, int32_t is_urgent) {
    try {
        readers->submit(reads, count, is_urgent != 0);
        return 0;
    } catch (const std::bad_alloc&) {
        return 1;
    }
}

int32_t qw_readers_hurry(QwReaders* readers, QwRead* read) {
    readers->hurry(read);
    return 0;
}

int32_t qw_readers_cancel(QwReaders* readers, QwRead* read) { return readers->cancel(read); }

int32_t qw_readers_wait(QwReaders* readers, QwRead* const* reads, int32_t count, int32_t timeout_ms) {
    return readers->wait(reads, count, timeout_ms);
}

int32_t qw_matmul(QwContext* context, const QwMatrix* w, const float* x, int32_t num_rows, float* y) {
    return call(context, [&] {
        const auto floats = qw::point_at(*context, const_cast<float*>(x), w->k, num_rows);
        const auto quantised = qw::take_quantised(*context, num_rows, w->k);
        qw::for_rows(*context, num_rows, 8, [&](int first, int last, int) {
            for (int m = first; m < last; m++) qw::quantise_row(*context, floats[m], w->k, quantised[m]);
        });
        const qw::Product product{*w, qw::inputs_of(quantised, floats),
                                  qw::point_at(*context, y, w->n, num_rows).rows};
        qw::multiply(*context, &product, 1);
    });
}

} // extern "C"
