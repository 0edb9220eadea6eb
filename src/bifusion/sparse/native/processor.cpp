#include "processor.h"

#if defined(BIFUSION_BFLOAT16) && defined(__linux__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace bifusion {
namespace {

#if defined(BIFUSION_BFLOAT16) && defined(__linux__)
// Not in every compiler's __builtin_cpu_supports.
bool has_avx512_bf16() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __builtin_cpu_supports("avx512bw") && __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a & 1u << 5);
}

bool has_amx_bf16() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    const unsigned bf16 = 1u << 22, tile = 1u << 24;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & bf16) && (d & tile);
}

// Linux's arch_prctl, whose numbers are not in older headers.
constexpr long TILE_DATA = 18, SUPPORTED = 0x1021, REQUEST_PERMISSION = 0x1023;

bool system_knows_tiles() {
    unsigned long features = 0;
    return syscall(SYS_arch_prctl, SUPPORTED, &features) == 0 && (features >> TILE_DATA & 1);
}

bool request_tiles() { return syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0; }
#else
bool request_tiles() { return false; }
#endif

}  // namespace

bool may_use_tiles() {
    static const bool permitted = request_tiles();
    return permitted;
}

std::vector<InstructionSet> supported_sets() {
    std::vector<InstructionSet> sets;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl")) {
        const InstructionSet set{"avx512", &avx512::single_precision, &avx512::double_precision};
        sets.push_back(set);
#if defined(BIFUSION_BFLOAT16) && defined(__linux__)
        if (has_avx512_bf16()) {
            // Intel's multiply more slowly in bfloat16 vectors than in float32: 44 against 70 billion a
            // second on Sapphire Rapids. AMD's are to be twice as fast in them.
            const bool faster = __builtin_cpu_is("amd");
            sets.insert(faster ? sets.begin() : sets.end(),
                        {"avx512_bf16", set.single_precision, set.double_precision, bfloat16::convolve_in_vectors});
            if (has_amx_bf16() && system_knows_tiles())
                sets.insert(sets.begin(), {"amx_bf16", &tiles::single_precision, set.double_precision,
                                           tiles::convolve_bfloat16, true});
        }
#endif
    }
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"))
        sets.push_back({"avx2", &avx2::single_precision, &avx2::double_precision});
#elif defined(__aarch64__)  // all of which have it
    sets.push_back({"neon", &neon::single_precision, &neon::double_precision});
#endif
    sets.push_back({"portable", &portable::single_precision, &portable::double_precision});
    return sets;
}

}  // namespace bifusion
