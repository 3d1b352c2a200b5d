// Kernels for x86-64 with AVX2, FMA and F16C; compiled with flags for these. dispatch.cpp asks the processor.
#define QWEN_ISA avx2
#include "kernels.h"

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "kernels/matmul_avx2.h"
#include "kernels/table.h"

const qw::Kernels* qw::avx2_kernels() { return qw::avx2::table("avx2"); }
#else
const qw::Kernels* qw::avx2_kernels() { return nullptr; }
#endif
