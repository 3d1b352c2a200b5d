// Puts the kernels of QWEN_ISA into a table. Included once, last, by each kernels_*.cpp.
#pragma once

#include "attention.h"
#include "delta_rule.h"
#include "pack_head.h"
#include "quantise.h"
#include "quantise_weights.h"
#include "rows.h"

namespace qw {
namespace QWEN_ISA {

static const Kernels* table(const char* name) {
    static const Kernels kernels = {
        name,       quantise,     quantise_weights, matmul,   rms_norm,    gated_norm,
        layer_norm, l2_normalise, swiglu,           activate, gate_row,    add_row,
        add_scaled, sigmoid_of,   exponentiate,     rotate,   row_to_bf16, decay_and_beta,
        convolve,   delta_rule,   attend,           merge,    pack_keys,   pack_values,
    };
    return &kernels;
}

} // namespace QWEN_ISA
} // namespace qw
