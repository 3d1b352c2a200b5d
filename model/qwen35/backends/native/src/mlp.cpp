// The two kinds of MLP. Both add to the residual stream what they make of the normed rows `h`.
#include "blocks.h"

namespace qw {

namespace {

// Rows of `h` as a matrix product takes them.
struct Quantised {
    Rows<uint8_t> rows;
    Rows<float> floats;
};
Quantised quantise_rows(Context& context, const float* h, int size, int num_rows) {
    const Quantised quantised{take_quantised(context, num_rows, size),
                              point_at(context, const_cast<float*>(h), size, num_rows)};
    for_rows(context, num_rows, 8, [&](int first, int last, int) {
        for (int m = first; m < last; m++)
            quantise_row(context, quantised.floats[m], size, quantised.rows[m]);
    });
    return quantised;
}

size_t matrix_bytes(const Matrix& w) { return row_block_bytes(w) * num_row_blocks(w.n); }

// The three matrices of one expert record.
QwMlp open_record(const QwMoe& layer, const void* record) {
    QwMlp expert{layer.gate, layer.up, layer.down};
    const uint8_t* at = static_cast<const uint8_t*>(record);
    for (Matrix* w : {&expert.gate, &expert.up, &expert.down}) {
        w->data = at;
        at += (matrix_bytes(*w) + 63) / 64 * 64;
    }
    return expert;
}

// The slots (row * top_k + rank) that each chosen expert has, expert by expert, in the order of the slots.
struct Assignment {
    int num_experts; // that got any
    int *experts, *starts;
    int32_t* slots;
};
Assignment assign(Context& context, const QwMoe& layer, int num_slots, const int32_t* chosen) {
    Scratch& scratch = context.scratch;
    int* next = scratch.take<int>(layer.num_experts + 1);
    std::fill(next, next + layer.num_experts + 1, 0);
    for (int slot = 0; slot < num_slots; slot++) next[chosen[slot] + 1]++;
    Assignment a{0, scratch.take<int>(layer.num_experts), scratch.take<int>(layer.num_experts + 1),
                 scratch.take<int32_t>(num_slots)};
    for (int e = 0; e < layer.num_experts; e++) {
        if (next[e + 1]) {
            a.experts[a.num_experts] = e;
            a.starts[a.num_experts++] = next[e];
        }
        next[e + 1] += next[e];
    }
    a.starts[a.num_experts] = num_slots;
    for (int slot = 0; slot < num_slots; slot++) a.slots[next[chosen[slot]]++] = slot;
    return a;
}

} // namespace

void run_mlp(Context& context, const QwMlp& layer, int num_rows, const float* h, float* x) {
    const int size = layer.gate.k;
    const Quantised input = quantise_rows(context, h, size, num_rows);
    const Rows<uint8_t> hidden = take_quantised(context, num_rows, layer.gate.n);
    const Expansion expansion{
        layer.gate, layer.up, nullptr, ACTIVATION_NONE, inputs_of(input.rows, input.floats), hidden.rows};
    expand(context, &expansion, 1);
    const Rows<float> y = take_floats(context, num_rows, size);
    const Product product{layer.down, inputs_of(hidden), y.rows};
    multiply(context, &product, 1);
    for_rows(context, num_rows, 16, [&](int first, int last, int) {
        for (int m = first; m < last; m++) context.kernels->add(x + size_t(m) * size, y[m], size);
    });
}

void run_experts(Context& context, const QwMoe& layer, int num_rows, const float* h, const int32_t* chosen,
                 const void* const* records, const uint8_t* wanted, float* y, float* shared) {
    Scratch& scratch = context.scratch;
    const int size = layer.gate.k, top_k = layer.top_k, num_slots = num_rows * top_k;
    const Quantised input = quantise_rows(context, h, size, num_rows);
    const Assignment assignment = assign(context, layer, num_slots, chosen);

    // One part per wanted expert and a last one for the shared expert: in both halves, all parts are one
    // loop.
    const Rows<uint8_t> hidden = take_quantised(context, num_slots, layer.gate.n); // by slot
    const Rows<float> slot_y = point_at(context, y, size, num_slots);
    Expansion* expansions = scratch.take<Expansion>(assignment.num_experts + 1);
    Product* products = scratch.take<Product>(assignment.num_experts + 2);
    const void** part_rows = scratch.take<const void*>(num_slots);
    const void** part_floats = scratch.take<const void*>(num_slots);
    uint8_t** part_hidden = scratch.take<uint8_t*>(num_slots);
    float** part_y = scratch.take<float*>(num_slots);
    for (int i = 0; i < num_slots; i++) {
        const int slot = assignment.slots[i];
        part_rows[i] = input.rows[slot / top_k];
        part_floats[i] = input.floats[slot / top_k];
        part_hidden[i] = hidden[slot];
        part_y[i] = slot_y[slot];
    }
    int num_parts = 0;
    for (int i = 0; i < assignment.num_experts; i++) {
        if (wanted && !wanted[assignment.experts[i]]) continue;
        const int first = assignment.starts[i], count = assignment.starts[i + 1] - first;
        const QwMlp expert = open_record(layer, records[assignment.experts[i]]);
        expansions[num_parts] = {expert.gate,
                                 expert.up,
                                 nullptr,
                                 ACTIVATION_NONE,
                                 {part_rows + first, part_floats + first, count},
                                 part_hidden + first};
        products[num_parts++] = {expert.down,
                                 {reinterpret_cast<const void* const*>(part_hidden + first), nullptr, count},
                                 part_y + first};
    }
    if (!shared) {
        expand(context, expansions, num_parts);
        multiply(context, products, num_parts);
        return;
    }
    const Inputs inputs = inputs_of(input.rows, input.floats);
    const Rows<uint8_t> shared_hidden = take_quantised(context, num_rows, layer.shared.gate.n);
    const Rows<float> shared_y = point_at(context, shared, size, num_rows);
    const Rows<float> shared_gate = take_floats(context, num_rows, 1);
    expansions[num_parts] = {layer.shared.gate, layer.shared.up, nullptr,
                             ACTIVATION_NONE,   inputs,          shared_hidden.rows};
    products[num_parts] = {layer.shared.down, inputs_of(shared_hidden), shared_y.rows};
    products[num_parts + 1] = {layer.shared_gate, inputs, shared_gate.rows};
    expand(context, expansions, num_parts + 1);
    multiply(context, products, num_parts + 2);
    for_rows(context, num_rows, 4, [&](int first, int end, int) {
        for (int m = first; m < end; m++) {
            const float gate = context.kernels->sigmoid(shared_gate[m][0]);
            for (int i = 0; i < size; i++) shared_y[m][i] *= gate;
        }
    });
}

void sum_experts(Context& context, const QwMoe& layer, int num_rows, const float* weights, float* y,
                 const float* shared, float* x) {
    const int size = layer.gate.k, top_k = layer.top_k;
    const Rows<float> slot_y = point_at(context, y, size, num_rows * top_k);
    for_rows(context, num_rows, 4, [&](int first, int end, int) {
        for (int m = first; m < end; m++) {
            float* routed = slot_y[size_t(m) * top_k];
            for (int i = 0; i < size; i++) routed[i] *= weights[m * top_k];
            for (int rank = 1; rank < top_k; rank++) {
                context.kernels->add_scaled(routed, slot_y[m * top_k + rank], weights[m * top_k + rank], size);
            }
            context.kernels->add(routed, shared + size_t(m) * size, size);
            context.kernels->add(x + size_t(m) * size, routed, size);
        }
    });
}

void run_moe(Context& context, const QwMoe& layer, int num_rows, const float* h, const int32_t* chosen,
             const float* weights, const void* const* records, float* x) {
    const int size = layer.gate.k;
    float* y = context.scratch.take<float>(size_t(num_rows) * layer.top_k * size);
    float* shared = context.scratch.take<float>(size_t(num_rows) * size);
    run_experts(context, layer, num_rows, h, chosen, records, nullptr, y, shared);
    sum_experts(context, layer, num_rows, weights, y, shared, x);
}

} // namespace qw
