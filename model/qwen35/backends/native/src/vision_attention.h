// Attention within one frame of a picture, in int8.
#pragma once

#include "gemm.h"

namespace qw {

// A run of patches that see each other.
struct Frame {
    int start, count;
};

// y (P, d) = attention of the rows of `frame` in qkv (P, 3 d): queries (turned and scaled), keys (turned),
// values.
void attend_frame(Context& context, const Frame& frame, int num_heads, int head_dim, const Rows<float>& qkv,
                  const Rows<float>& y);

} // namespace qw
