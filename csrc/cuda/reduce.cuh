// Sums and maxima over the threads of a warp or block, in an order that is always the same.
#pragma once

#include <cstddef>

#include "cuda/ptx.cuh"

namespace fastconv::cuda {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xFFFFFFFFu;

/// The sum of `lanes` neighbouring lanes of a warp (a power of two), in each of them. All lanes call.
template <class T>
__device__ inline T warp_sum(T value, int lanes = kWarp) {
    for (int step = lanes / 2; step > 0; step /= 2)
        value += __shfl_xor_sync(kAllLanes, value, step);
    return value;
}

/// As warp_sum, the maximum; a NaN beside a number is dropped.
__device__ inline float warp_max(float value, int lanes = kWarp) {
    for (int step = lanes / 2; step > 0; step /= 2)
        value = fmaxf(value, __shfl_xor_sync(kAllLanes, value, step));
    return value;
}

/// Shared memory that block_sums needs.
template <int kThreads, int kCount = 2>
constexpr std::size_t block_sums_bytes = sizeof(double) * kCount * (kThreads / kWarp);

/// Sums over a block of kThreads in one row; the result is thread 0's alone. Called once a kernel.
template <int kThreads, int kCount>
__device__ inline void block_sums(double (&value)[kCount]) {
    constexpr int kWarps = kThreads / kWarp;
    auto* const shared = reinterpret_cast<double*>(ptx::shared_memory());  // (kCount, kWarps)
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
        value[k] = warp_sum(value[k]);
        if (threadIdx.x % kWarp == 0) shared[k * kWarps + warp] = value[k];
    }
    __syncthreads();
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int k = 0; k < kCount; ++k)
        for (int w = 1; w < kWarps; ++w) value[k] += shared[k * kWarps + w];
}

}  // namespace fastconv::cuda
