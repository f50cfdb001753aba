// What the programs of this folder share: operands of small integers, so that every sum is exact in
// float32 and only the store rounds, and what csrc/cuda asks the library for. Of one file a program.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>

#include "cuda/device.h"

namespace fastconv::cuda {

void check(cudaError_t status, const char* what) {
    if (status == cudaSuccess) return;
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

int current_device() { return 0; }

/// Of few multiprocessors: kernels whose blocks take several tiles have them do so.
const DeviceInfo& device(int) {
    static const DeviceInfo info = [] {
        DeviceInfo few;
        few.capability = 90;
        few.multiprocessors = 3;
        return few;
    }();
    return info;
}

namespace emulated {

inline int small_integer(unsigned& state) {
    state = state * 1664525u + 1013904223u;
    return static_cast<int>(state >> 16) % 5 - 2;
}

/// Device memory, all bytes 0xff: NaN in every floating type.
template <class T>
struct Buffer {
    T* data = nullptr;
    std::int64_t elems;

    explicit Buffer(std::int64_t count) : elems(count) {
        const std::size_t bytes = static_cast<std::size_t>(elems) * sizeof(T);
        check(cudaMalloc(reinterpret_cast<void**>(&data), bytes > 0 ? bytes : 16), "cudaMalloc");
        std::memset(data, 0xff, bytes);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { cudaFree(data); }

    /// Bytes that are not as they were.
    long written() const {
        const auto* bytes = reinterpret_cast<const unsigned char*>(data);
        long count = 0;
        for (std::int64_t i = 0; i < elems * static_cast<std::int64_t>(sizeof(T)); ++i)
            count += bytes[i] != 0xff;
        return count;
    }
};

}  // namespace emulated
}  // namespace fastconv::cuda
