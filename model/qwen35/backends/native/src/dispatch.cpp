#include "dispatch.h"

#include <cstring>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace qw {

namespace {

#if defined(__x86_64__)
bool runs_avx2() {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
}
bool runs_avx512() {
    return runs_avx2() && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512vnni");
}
#else
bool runs_avx2() { return false; }
bool runs_avx512() { return false; }
#endif

#if defined(__aarch64__) && defined(__linux__)
bool runs_neon() { return getauxval(AT_HWCAP) & (1 << 20); } // HWCAP_ASIMDDP
#elif defined(__aarch64__)
bool runs_neon() { return true; } // every Apple processor with arm64 for macOS has it
#else
bool runs_neon() { return false; }
#endif

} // namespace

const Kernels* choose_kernels(const char* wanted) {
    const Kernels* best_first[] = {
        runs_avx512() ? avx512_kernels() : nullptr,
        runs_avx2() ? avx2_kernels() : nullptr,
        runs_neon() ? neon_kernels() : nullptr,
        scalar_kernels(),
    };
    for (const Kernels* kernels : best_first) {
        if (kernels && (!wanted || !*wanted || !strcmp(wanted, kernels->name))) return kernels;
    }
    return nullptr;
}

} // namespace qw
