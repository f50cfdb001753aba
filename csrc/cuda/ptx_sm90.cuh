// Instructions of compute capability 9.0 alone (sm_90a) that CUDA C++ has no words for, as ptx.cuh
// has the others: wgmma, the matrix products of a warpgroup, and what orders them.
//
//   d (64 x kCols) += a (64 x 16) * b (16 x kCols), float32 sums, both operands in shared memory
//
// A warpgroup is four warps, threads 128 w .. 128 w + 127 of the block, which issue all of them
// together with the same operands. Order of use, all by every thread of the warpgroup:
//
//   fence_proxy_async   after writes (cp.async too), before the barrier that makes them known
//   wgmma_fence         before the first product, and after registers of d were used otherwise
//   wgmma_64xNx16_...   as many as wanted, on the same d too
//   wgmma_commit        closes a group
//   wgmma_wait<n>       until then neither d nor the operands' memory may be touched
//
// The emulation (tests/emulation) has its own file of this name with the same functions.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>

#include "cuda/ptx.cuh"

namespace fastconv::cuda::ptx {

/// Orders this thread's earlier accesses to shared memory before later ones by wgmma (9.7.13.4
/// membar / fence.proxy).
__device__ inline void fence_proxy_async() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// ---- wgmma (9.7.15.5, sm_90a) -------------------------------------------------------------------

/// Where an operand stands, swizzled by 128 bytes (9.7.15.5.1): chunk q of 16 bytes of the 128-byte
/// line l is at place q ^ (l & 7), l counted in absolute shared addresses: an operand may start at
/// any line, with any number of lines from one eight to the next. With rows for a's rows or b's
/// columns:
///
///   K-major    a line is 64 depths of one row; stride_bytes from 8 rows to the next 8,
///              leading_bytes is not used. 16 depths further: start + 32 bytes.
///   MN-major   (kTranspose) a line is 64 rows of one depth; stride_bytes from 8 depths to the next
///              8, leading_bytes from 64 rows to the next 64. 16 depths further: start + 2 strides.
__device__ inline std::uint64_t matrix_descriptor(const void* start, int leading_bytes,
                                                  int stride_bytes) {
    constexpr std::uint64_t kSwizzle128 = 1;
    return static_cast<std::uint64_t>((shared_address(start) & 0x3ffff) >> 4) |
           static_cast<std::uint64_t>(leading_bytes >> 4) << 16 |
           static_cast<std::uint64_t>(stride_bytes >> 4) << 32 | kSwizzle128 << 62;
}

__device__ inline void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() {
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
/// Waits until at most kPending of the warpgroup's groups are unfinished.
template <int kPending>
__device__ inline void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// With warp = threadIdx.x / 32 % 4, g = lane / 4, t = lane % 4: d[4 j + e] is row
// 16 warp + g + 8 (e / 2), column 8 j + 2 t + e % 2. Without `accumulate`, d = a * b.

#define FASTCONV_SUMS_8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define FASTCONV_SUMS_32(i) \
    FASTCONV_SUMS_8(i), FASTCONV_SUMS_8(i + 8), FASTCONV_SUMS_8(i + 16), FASTCONV_SUMS_8(i + 24)

#define FASTCONV_WGMMA_64(type) \
    asm volatile( \
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %34, 0;\n" \
        "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
        "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31}, " \
        "%32, %33, accumulate, 1, 1, %35, %36;\n}" \
        : FASTCONV_SUMS_32(0) \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int{kTransposeA}), \
          "n"(int{kTransposeB}))

#define FASTCONV_WGMMA_128(type) \
    asm volatile( \
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %66, 0;\n" \
        "wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
        "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
        "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
        "%62, %63}, " \
        "%64, %65, accumulate, 1, 1, %67, %68;\n}" \
        : FASTCONV_SUMS_32(0), FASTCONV_SUMS_32(32) \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int{kTransposeA}), \
          "n"(int{kTransposeB}))

#define FASTCONV_WGMMA_192(type) \
    asm volatile( \
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %98, 0;\n" \
        "wgmma.mma_async.sync.aligned.m64n192k16.f32." type "." type " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, " \
        "%15, %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, " \
        "%28, %29, %30, %31, %32, %33, %34, %35, %36, %37, %38, %39, %40, " \
        "%41, %42, %43, %44, %45, %46, %47, %48, %49, %50, %51, %52, %53, " \
        "%54, %55, %56, %57, %58, %59, %60, %61, %62, %63, %64, %65, %66, " \
        "%67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, " \
        "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, " \
        "%93, %94, %95}, " \
        "%96, %97, accumulate, 1, 1, %99, %100;\n}" \
        : FASTCONV_SUMS_32(0), FASTCONV_SUMS_32(32), FASTCONV_SUMS_32(64) \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int{kTransposeA}), \
          "n"(int{kTransposeB}))

#define FASTCONV_WGMMA_256(type) \
    asm volatile( \
        "{\n.reg .pred accumulate;\nsetp.ne.b32 accumulate, %130, 0;\n" \
        "wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {" \
        "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, %16, " \
        "%17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, " \
        "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, " \
        "%47, %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, " \
        "%62, %63, %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, " \
        "%77, %78, %79, %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, " \
        "%92, %93, %94, %95, %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, " \
        "%106, %107, %108, %109, %110, %111, %112, %113, %114, %115, %116, %117, %118, " \
        "%119, %120, %121, %122, %123, %124, %125, %126, %127}, " \
        "%128, %129, accumulate, 1, 1, %131, %132;\n}" \
        : FASTCONV_SUMS_32(0), FASTCONV_SUMS_32(32), FASTCONV_SUMS_32(64), FASTCONV_SUMS_32(96) \
        : "l"(a), "l"(b), "r"(static_cast<int>(accumulate)), "n"(int{kTransposeA}), \
          "n"(int{kTransposeB}))

template <bool kTransposeA = false, bool kTransposeB = false>
__device__ inline void wgmma_64x64x16_f16(float (&d)[32], std::uint64_t a, std::uint64_t b,
                                          bool accumulate) {
    FASTCONV_WGMMA_64("f16");
}
template <bool kTransposeA = false, bool kTransposeB = false>
__device__ inline void wgmma_64x64x16_bf16(float (&d)[32], std::uint64_t a, std::uint64_t b,
                                           bool accumulate) {
    FASTCONV_WGMMA_64("bf16");
}
template <bool kTransposeA = false, bool kTransposeB = false>
__device__ inline void wgmma_64x128x16_f16(float (&d)[64], std::uint64_t a, std::uint64_t b,
                                           bool accumulate) {
    FASTCONV_WGMMA_128("f16");
}
template <bool kTransposeA = false, bool kTransposeB = false>
__device__ inline void wgmma_64x128x16_bf16(float (&d)[64], std::uint64_t a, std::uint64_t b,
                                            bool accumulate) {
    FASTCONV_WGMMA_128("bf16");
}
template <bool kTransposeA = false, bool kTransposeB = false>
__device__ inline void wgmma_64x192x16_f16(float (&d)[96], std::uint64_t a, std::uint64_t b,
                                           bool accumulate) {
    FASTCONV_WGMMA_192("f16");
}
template <bool kTransposeA = false, bool kTransposeB = false>
__device__ inline void wgmma_64x192x16_bf16(float (&d)[96], std::uint64_t a, std::uint64_t b,
                                            bool accumulate) {
    FASTCONV_WGMMA_192("bf16");
}
template <bool kTransposeA = false, bool kTransposeB = false>
__device__ inline void wgmma_64x256x16_f16(float (&d)[128], std::uint64_t a, std::uint64_t b,
                                           bool accumulate) {
    FASTCONV_WGMMA_256("f16");
}
template <bool kTransposeA = false, bool kTransposeB = false>
__device__ inline void wgmma_64x256x16_bf16(float (&d)[128], std::uint64_t a, std::uint64_t b,
                                            bool accumulate) {
    FASTCONV_WGMMA_256("bf16");
}

#undef FASTCONV_WGMMA_64
#undef FASTCONV_WGMMA_128
#undef FASTCONV_WGMMA_192
#undef FASTCONV_WGMMA_256
#undef FASTCONV_SUMS_32
#undef FASTCONV_SUMS_8

}  // namespace fastconv::cuda::ptx
