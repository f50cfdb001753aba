// What the host's side of cases is made of.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <exception>
#include <string>

#define FASTCONV_VISIBLE extern "C" __attribute__((visibility("default")))

namespace {

/// Device memory with a copy of host memory.
class OnDevice {
public:
    OnDevice(const void* host, std::size_t bytes) : bytes_(bytes) {
        cudaMalloc(&data_, bytes);
        cudaMemcpy(data_, host, bytes, cudaMemcpyHostToDevice);
    }
    ~OnDevice() { cudaFree(data_); }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;
    template <class T>
    T* as() const {
        return static_cast<T*>(data_);
    }
    void read(void* host) const { cudaMemcpy(host, data_, bytes_, cudaMemcpyDeviceToHost); }

private:
    void* data_ = nullptr;
    std::size_t bytes_;
};

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), dim3 blocks, int threads, dim3 cluster,
            int shared_bytes, Arguments... arguments) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
    cudaLaunchConfig_t config{};
    config.gridDim = blocks;
    config.blockDim = dim3(static_cast<unsigned>(threads));
    config.dynamicSmemBytes = static_cast<std::size_t>(shared_bytes);
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = cluster.x;
    attribute.val.clusterDim.y = cluster.y;
    attribute.val.clusterDim.z = cluster.z;
    config.attrs = &attribute;
    config.numAttrs = cluster.x * cluster.y * cluster.z > 1 ? 1 : 0;
    cudaLaunchKernelEx(&config, kernel, arguments...);
    cudaDeviceSynchronize();
}

/// Runs f, and says what went wrong.
template <class F>
const char* said(const F& f) {
    static std::string text;
    text.clear();
    cudaGetLastError();  // what an earlier case has left
    try {
        f();
    } catch (const std::exception& error) {
        text = error.what();
    }
    const cudaError_t error = cudaGetLastError();
    if (text.empty() && error != cudaSuccess) text = cudaGetErrorString(error);
    return text.c_str();
}

}  // namespace
