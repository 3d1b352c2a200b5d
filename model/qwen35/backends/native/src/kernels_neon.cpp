// Kernels for 64-bit ARM with the int8 dot product (ARMv8.2 and later).
#define QWEN_ISA neon
#define QWEN_NEON
#include "kernels.h"

#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "kernels/matmul_neon.h"
#include "kernels/table.h"

const qw::Kernels* qw::neon_kernels() { return qw::neon::table("neon"); }
#else
const qw::Kernels* qw::neon_kernels() { return nullptr; }
#endif
