// The one place that launches kernels: on cudaLaunchKernelEx, so that clusters and other attributes
// are one line more. Errors become exceptions that name the kernel's file of origin by `what`.
#pragma once

#include <cuda_runtime.h>

#include <atomic>
#include <cstddef>
#include <mutex>
#include <utility>

#include "cuda/device.h"

namespace fastconv::cuda {

struct LaunchShape {
    dim3 grid;
    dim3 block;
    std::size_t shared_bytes = 0;  // dynamic; kernels have no other (ptx.cuh: shared_memory)
    dim3 cluster{1, 1, 1};
};

/// Allows a kernel its dynamic shared memory, once for each device and larger amount: asking CUDA
/// again with every launch would be one more call into it for nothing.
template <auto kKernel>
void allow_shared_bytes(std::size_t bytes) {
    constexpr int kDevices = 64;  // those beyond ask every time
    static std::atomic<std::size_t> allowed[kDevices]{};
    static std::mutex mutex;
    const int device = current_device();
    if (device < kDevices && bytes <= allowed[device].load(std::memory_order_acquire)) return;
    const std::lock_guard<std::mutex> lock(mutex);  // or a smaller amount could come last
    if (device < kDevices && bytes <= allowed[device].load(std::memory_order_relaxed)) return;
    check(cudaFuncSetAttribute(kKernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(bytes)),
          "cudaFuncSetAttribute");
    if (device < kDevices) allowed[device].store(bytes, std::memory_order_release);
}

/// launch<kernel>(shape, stream, arguments...). A launch of no blocks is nothing. Not inlined, so that
/// a library's symbols say which kernels it has (tests/test_cuda_build.py counts them).
template <auto kKernel, class... Arguments>
[[gnu::noinline]] void launch(const LaunchShape& shape, Stream stream, Arguments&&... arguments) {
    if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) return;
    if (shape.shared_bytes > 48 * 1024)
        allow_shared_bytes<kKernel>(shape.shared_bytes);
    cudaLaunchConfig_t config{};
    config.gridDim = shape.grid;
    config.blockDim = shape.block;
    config.dynamicSmemBytes = shape.shared_bytes;
    config.stream = stream_of(stream);
    cudaLaunchAttribute attribute{};
    if (shape.cluster.x * shape.cluster.y * shape.cluster.z > 1) {
        attribute.id = cudaLaunchAttributeClusterDimension;
        attribute.val.clusterDim.x = shape.cluster.x;
        attribute.val.clusterDim.y = shape.cluster.y;
        attribute.val.clusterDim.z = shape.cluster.z;
        config.attrs = &attribute;
        config.numAttrs = 1;
    }
    check(cudaLaunchKernelEx(&config, kKernel, std::forward<Arguments>(arguments)...),
          "cudaLaunchKernelEx");
}

}  // namespace fastconv::cuda
