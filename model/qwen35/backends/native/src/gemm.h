// Matrix products over all threads.
#pragma once

#include "context.h"

namespace qw {

// Inputs of one matrix product, both forms: q4 and q8 matrices take quantised rows, f32 ones float rows.
struct Inputs {
    const void* const* quantised;
    const void* const* floats; // may be null where no matrix is f32
    int num_rows;
};

inline Inputs inputs_of(const Rows<uint8_t>& quantised) {
    return {reinterpret_cast<const void* const*>(quantised.rows), nullptr, quantised.num_rows};
}
inline Inputs inputs_of(const Rows<uint8_t>& quantised, const Rows<float>& floats) {
    return {reinterpret_cast<const void* const*>(quantised.rows),
            reinterpret_cast<const void* const*>(floats.rows), quantised.num_rows};
}

// y[m] = w x[m] + bias for all rows.
struct Product {
    Matrix w;
    Inputs x;
    float* const* y;
    const float* bias = nullptr; // (n)
};
void multiply(Context& context, const Product* products, int count);

// The first half of an MLP, up to the quantised rows that its second matrix takes: swiglu(gate x, up x), or
// activate(gate x + bias) where `up.data` is null. A group of outputs is quantised as soon as it is there.
struct Expansion {
    Matrix gate, up;
    const float* bias;
    Activation activation;
    Inputs x;
    uint8_t* const* y; // (M) rows of gate.n values
};
void expand(Context& context, const Expansion* expansions, int count);

} // namespace qw
