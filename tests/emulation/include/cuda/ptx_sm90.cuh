// The functions of csrc/cuda/ptx_sm90.cuh for the emulation: contracts and layouts are in that file.
// What they do is in tests/emulation/warpgroup.cpp.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx.cuh"

namespace emulation {

/// d (64 x cols) += a * b of a warpgroup, as one of its threads sees it.
struct WarpgroupProduct {
    float* d;
    std::uint64_t a, b;  // descriptors
    int cols;
    bool bfloat16, transpose_a, transpose_b, accumulate;
    const char* file;
    int line;
};
extern const Collective kWgmma, kWgmmaFence, kWgmmaCommit, kWgmmaWait;

void fence_copies();

}  // namespace emulation

namespace fastconv::cuda::ptx {

#define FASTCONV_SITE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void fence_proxy_async() { emulation::fence_copies(); }

inline std::uint64_t matrix_descriptor(const void* start, int leading_bytes, int stride_bytes) {
    return std::uint64_t{(shared_address(start) & 0x3ffff) >> 4} |
           static_cast<std::uint64_t>(leading_bytes >> 4) << 16 |
           static_cast<std::uint64_t>(stride_bytes >> 4) << 32 | std::uint64_t{1} << 62;
}

inline void wgmma_fence(FASTCONV_SITE) {
    emulation::meet(emulation::kWgmmaFence, nullptr, 0xffffffffu, file, line);
}
inline void wgmma_commit(FASTCONV_SITE) {
    emulation::meet(emulation::kWgmmaCommit, nullptr, 0xffffffffu, file, line);
}
template <int kPending>
inline void wgmma_wait(FASTCONV_SITE) {
    int pending = kPending;
    emulation::meet(emulation::kWgmmaWait, &pending, 0xffffffffu, file, line);
}

#define FASTCONV_WGMMA(name, cols, bfloat16)                                                      \
    template <bool kTransposeA = false, bool kTransposeB = false>                                 \
    inline void name(float(&d)[cols / 2], std::uint64_t a, std::uint64_t b, bool accumulate,      \
                     FASTCONV_SITE) {                                                             \
        emulation::WarpgroupProduct operands{d,           a,           b,          cols, bfloat16, \
                                             kTransposeA, kTransposeB, accumulate, file, line};   \
        emulation::meet(emulation::kWgmma, &operands, 0xffffffffu, file, line);                   \
    }
FASTCONV_WGMMA(wgmma_64x64x16_f16, 64, false)
FASTCONV_WGMMA(wgmma_64x64x16_bf16, 64, true)
FASTCONV_WGMMA(wgmma_64x128x16_f16, 128, false)
FASTCONV_WGMMA(wgmma_64x128x16_bf16, 128, true)
FASTCONV_WGMMA(wgmma_64x192x16_f16, 192, false)
FASTCONV_WGMMA(wgmma_64x192x16_bf16, 192, true)
FASTCONV_WGMMA(wgmma_64x256x16_f16, 256, false)
FASTCONV_WGMMA(wgmma_64x256x16_bf16, 256, true)
#undef FASTCONV_WGMMA
#undef FASTCONV_SITE

}  // namespace fastconv::cuda::ptx
