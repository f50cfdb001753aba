// Instructions that CUDA C++ has no words for, one inline function each; all inline assembly lives
// here. Sections are of NVIDIA's PTX ISA manual. The emulation (tests/emulation) has its own file of
// this name with the same functions.
//
// Pointers to shared memory are generic pointers into shared_memory().
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

namespace fastconv::cuda::ptx {

/// The block's dynamic shared memory, the only shared memory kernels use; 1024-byte aligned.
__device__ inline unsigned char* shared_memory() {
    extern __shared__ __align__(1024) unsigned char fastconv_shared_memory[];
    return fastconv_shared_memory;
}

__device__ inline std::uint32_t shared_address(const void* pointer) {
    return static_cast<std::uint32_t>(__cvta_generic_to_shared(pointer));
}

// ---- st.global.v4 (9.7.9.12) ----------------------------------------------------------------------

/// 16 bytes to global memory, 16-byte aligned, as one access: nvcc 13.0 takes the assignment of a
/// 16-byte struct apart into four where its address depends on a branch.
__device__ inline void store_16(void* global, const std::uint32_t (&words)[4]) {
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(global)),
                 "r"(words[0]), "r"(words[1]), "r"(words[2]), "r"(words[3])
                 : "memory");
}

// ---- ld.global with an L2 policy (9.7.9.8, 9.7.9.18 createpolicy; sm_80) ----------------------------

/// 16 bytes of global memory, 16-byte aligned, that nobody reads again soon: they leave L2 first, so
/// that what is written stays there for its reader. Independent calls stay together, ahead of stores.
__device__ inline void load_16_once(std::uint32_t (&words)[4], const void* global) {
#if __CUDA_ARCH__ >= 800
    std::uint64_t policy;
    asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
    asm volatile("ld.global.L1::no_allocate.L2::cache_hint.v4.b32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(__cvta_generic_to_global(global)), "l"(policy));
#else
    asm volatile("ld.global.cs.v4.b32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "l"(__cvta_generic_to_global(global)));
#endif
}

// ---- ex2, rcp, sqrt .approx (9.7.3.21, 9.7.3.14, 9.7.3.16) ----------------------------------------------------

/// 2^x within 2 ulp, one instruction; subnormal operands and results become 0.
__device__ inline float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// 1 / x within 1 ulp, one instruction; subnormal operands become 0, subnormal results too.
__device__ inline float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

/// Within 1 ulp; subnormal operands become 0.
__device__ inline float square_root_approx(float x) {
    float y;
    asm("sqrt.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// ---- cp.async (9.7.9.25.3, sm_80) -----------------------------------------------------------------

/// 16 bytes from global to shared memory, both 16-byte aligned; zeros where not valid (then `global`
/// is not read). Bypasses L1.
__device__ inline void cp_async_16(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid ? 16 : 0));
}

/// 4 bytes, as cp_async_16, through L1.
__device__ inline void cp_async_4(void* shared, const void* global, bool valid) {
    asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)),
                 "l"(global), "r"(valid ? 4 : 0));
}

/// Closes the group of this thread's copies since the last commit.
__device__ inline void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }

/// Waits until at most kPending of this thread's groups are unfinished. Other threads' copies are
/// visible only after a barrier that follows their wait.
template <int kPending>
__device__ inline void cp_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// ---- ldmatrix (9.7.14.5.15, sm_75) ----------------------------------------------------------------

/// Four 8x8 matrices of 16-bit elements: lane l holds the address of row l % 8 of matrix l / 8; after
/// it, register m of lane l has elements (l / 4, 2 (l % 4)) and the next of matrix m.
__device__ inline void ldmatrix_x4(std::uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

/// As ldmatrix_x4, each matrix transposed: lane l has (2 (l % 4), l / 4) and the row below it.
__device__ inline void ldmatrix_x4_trans(std::uint32_t (&r)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// ---- mma.sync (9.7.14.5, sm_80) -------------------------------------------------------------------
// d (16 x 8) += a (16 x depth) * b (depth x 8), float32 accumulators. With g = lane / 4, t = lane % 4:
//   d[0] (g, 2t)  d[1] (g, 2t + 1)  d[2] (g + 8, 2t)  d[3] (g + 8, 2t + 1)
//   depth 16, 16-bit, two elements a register along depth:
//     a[0] (g, 2t..)  a[1] (g + 8, 2t..)  a[2] (g, 2t + 8..)  a[3] (g + 8, 2t + 8..)
//     b[0] (2t.., g)  b[1] (2t + 8.., g)
//   depth 8, tf32, whose 13 low bits are ignored:
//     a[0] (g, t)  a[1] (g + 8, t)  a[2] (g, t + 4)  a[3] (g + 8, t + 4)     b[0] (t, g)  b[1] (t + 4, g)

__device__ inline void mma_16x8x16_bf16(float (&d)[4], const std::uint32_t (&a)[4],
                                        std::uint32_t b0, std::uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void mma_16x8x16_f16(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                       std::uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ inline void mma_16x8x8_tf32(float (&d)[4], const std::uint32_t (&a)[4], std::uint32_t b0,
                                       std::uint32_t b1) {
    asm volatile(
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, "
        "{%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- maximum with NaN (9.7.3.11 max, 9.7.4.7 max for 16-bit; sm_80) ---------------------------------
// NaN if either operand is NaN. Before sm_80 by comparison.

__device__ inline float max_nan(float a, float b) {
#if __CUDA_ARCH__ >= 800
    float d;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
    return d;
#else
    return a > b || a != a ? a : b;
#endif
}

/// Two elements each.
__device__ inline std::uint32_t max_nan_f16x2(std::uint32_t a, std::uint32_t b) {
#if __CUDA_ARCH__ >= 800
    std::uint32_t d;
    asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
#else
    std::uint32_t d = 0;
    for (int i = 0; i < 32; i += 16) {
        const __half_raw x{static_cast<unsigned short>(a >> i)};
        const __half_raw y{static_cast<unsigned short>(b >> i)};
        const float u = __half2float(__half(x)), v = __half2float(__half(y));
        d |= std::uint32_t{u > v || u != u ? x.x : y.x} << i;
    }
    return d;
#endif
}

__device__ inline std::uint32_t max_nan_bf16x2(std::uint32_t a, std::uint32_t b) {
#if __CUDA_ARCH__ >= 800
    std::uint32_t d;
    asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
    return d;
#else
    std::uint32_t d = 0;
    for (int i = 0; i < 32; i += 16) {
        const std::uint32_t x = a >> i & 0xffff, y = b >> i & 0xffff;
        const float u = __uint_as_float(x << 16), v = __uint_as_float(y << 16);
        d |= (u > v || u != u ? x : y) << i;
    }
    return d;
#endif
}

}  // namespace fastconv::cuda::ptx
