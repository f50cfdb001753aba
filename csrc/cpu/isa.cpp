// The ordered list of instruction sets, what this processor supports, and the forced choice.
#include "cpu/isa.h"

#include <atomic>
#include <cstdlib>
#include <stdexcept>

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

#include "cpu/kernels_gemm.h"

namespace fastconv::cpu {

// The rows come from CMakeLists.txt, best first.
#define FC_ISA_ROW(isa)                         \
    namespace isa {                             \
    extern const Kernels<float> kernels_f32;    \
    extern const Kernels<double> kernels_f64;   \
    }
#include "isa_list.def"
#undef FC_ISA_ROW

namespace {

// __builtin_cpu_supports asks cpuid and, for the registers the operating system must save, xgetbv.
// The features are those that the flags in CMakeLists.txt let the compiler use.
bool supports_scalar() { return true; }
#if defined(__x86_64__)
bool supports_avx2() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }
bool supports_avx512() {
    return supports_avx2() && __builtin_cpu_supports("avx512f") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vl");
}

// Linux saves a thread's matrix tiles only for a process that asked for it, once; no permission is taken
// from threads or forks. From then on it refuses alternate signal stacks that are too small for them.
// Bits 22 and 24 of EDX in cpuid's leaf 7.
bool supports_amx() {
#if defined(__linux__)
    static const bool supported = [] {
        constexpr unsigned kBfloat16 = 1u << 22, kTiles = 1u << 24;
        constexpr long kRequestPermission = 0x1023, kTileData = 18;  // ARCH_REQ_XCOMP_PERM
        unsigned a = 0, b = 0, c = 0, d = 0;
        if (!supports_avx512() || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
        if ((d & kBfloat16) == 0 || (d & kTiles) == 0) return false;
        return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
    }();
    return supported;
#else
    return false;
#endif
}
#endif

std::atomic<const Isa*> process_choice{nullptr};
thread_local const Isa* thread_choice = nullptr;

std::string supported_names() {
    std::string names;
    for (const Isa& isa : isas()) {
        if (isa.supported()) names += (names.empty() ? "" : ", ") + std::string(isa.name);
    }
    return names;
}

const Isa& default_isa() {
    if (const char* forced = std::getenv("FASTCONV_ISA"); forced && *forced) {
        try {
            return find_isa(forced);
        } catch (const std::invalid_argument& error) {
            throw std::invalid_argument(std::string("environment variable FASTCONV_ISA: ") +
                                        error.what());
        }
    }
    for (const Isa& isa : isas()) {
        if (isa.supported()) return isa;
    }
    return isas().back();
}

/// Zen 4: AMD's family 25, of which Zen 3 has no AVX-512.
bool multiplies_in_halves() {
#if defined(__x86_64__)
    unsigned a = 0, b = 0, c = 0, d = 0;
    if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &a, &b, &c, &d)) return false;
    return (a >> 8 & 15) + (a >> 20 & 255) == 25;
#else
    return false;
#endif
}

}  // namespace

const std::vector<Isa>& isas() {
    static const std::vector<Isa> list = {
#define FC_ISA_ROW(isa) Isa{#isa, supports_##isa, isa::kernels_f32, isa::kernels_f64},
#include "isa_list.def"
#undef FC_ISA_ROW
    };
    return list;
}

const Isa& find_isa(const std::string& name) {
    for (const Isa& isa : isas()) {
        if (name != isa.name) continue;
        if (isa.supported()) return isa;
        throw std::invalid_argument("instruction set '" + name +
                                    "' is not supported by this processor, which supports: " +
                                    supported_names());
    }
    throw std::invalid_argument("unknown instruction set '" + name +
                                "'; this build and processor have: " + supported_names());
}

bool fetches_near() {
#if defined(__x86_64__)
    static const bool amd = __builtin_cpu_is("amd");
    return amd;
#else
    return false;
#endif
}

double other_work(const Isa& isa) {
    static const bool in_halves = multiplies_in_halves();
    const int lanes = isa.kernels<float>().gemm->lanes;
    if (lanes == 8) return 0.6;
    return lanes == 16 && in_halves ? 0.5 : 1;
}

const Isa& current_isa() {
    if (thread_choice) return *thread_choice;
    const Isa* chosen = process_choice.load(std::memory_order_acquire);
    if (!chosen) {
        const Isa* initial = &default_isa();
        // Another thread may have called set_process_isa meanwhile: its choice stays.
        if (process_choice.compare_exchange_strong(chosen, initial)) chosen = initial;
    }
    return *chosen;
}

void set_process_isa(const Isa* isa) { process_choice.store(isa, std::memory_order_release); }
void set_thread_isa(const Isa* isa) { thread_choice = isa; }
const Isa* thread_isa() { return thread_choice; }

}  // namespace fastconv::cpu
