// Kernels for x86-64 with AVX-512 VNNI: its int8 dot product for the matrices, the AVX2 forms for the rest,
// which are bound by memory or gain little (Zen4 runs 512-bit floats at half rate).
#define QWEN_ISA avx512
#include "kernels.h"

#if defined(__AVX512VNNI__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#include "kernels/matmul_avx512.h"
#include "kernels/table.h"

const qw::Kernels* qw::avx512_kernels() { return qw::avx512::table("avx512"); }
#else
const qw::Kernels* qw::avx512_kernels() { return nullptr; }
#endif
