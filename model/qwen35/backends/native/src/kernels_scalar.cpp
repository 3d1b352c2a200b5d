// Kernels for any processor. Slow; the measure of all others.
#define QWEN_ISA scalar
#include "kernels/matmul_scalar.h"
#include "kernels/table.h"

const qw::Kernels* qw::scalar_kernels() { return qw::scalar::table("scalar"); }
