// Which kernels run on this processor.
#pragma once

#include "kernels.h"

namespace qw {

// The best kernels that this build holds and this processor runs, or those named `wanted` ("scalar", "avx2",
// "avx512", "neon"). nullptr where the named ones cannot run here.
const Kernels* choose_kernels(const char* wanted);

} // namespace qw
