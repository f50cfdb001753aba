// What the files of cuda/ share on the host: errors, streams, scratch, dtypes as types.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <utility>

#include "core/problem.h"
#include "ops.h"

namespace fastconv::cuda {

/// Throws std::runtime_error with CUDA's words, or a sentence of ours where they say little (no
/// kernel image for this device, no memory). Also clears the error.
void check(cudaError_t status, const char* what);

/// Waits for all of the device's work, which no capture of one of its streams allows and which would
/// spoil it: false, at once, while begin_capture's are open.
bool synchronize_device_unless_capturing(int index);

inline cudaStream_t stream_of(Stream stream) { return reinterpret_cast<cudaStream_t>(stream); }

/// Scratch of the current device for the work that is enqueued on `stream` while it lives.
class Scratch {
public:
    Scratch(std::size_t bytes, Stream stream)
        : device_(current_device()), stream_(stream),
          data_(bytes == 0 ? nullptr : allocate(bytes, stream)) {}
    ~Scratch() {
        if (data_) release(data_, device_, stream_);
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    void* data() const { return data_; }

private:
    int device_;
    Stream stream_;
    void* data_;
};

using Half = __half;
using BFloat16 = __nv_bfloat16;

template <class T>
struct TypeTag {
    using type = T;
};

/// Calls f(TypeTag<T>{}) with the type of `dtype`: float, Half or BFloat16.
template <class F>
void with_type(DType dtype, F&& f) {
    switch (dtype) {
        case DType::kFloat32: return f(TypeTag<float>{});
        case DType::kFloat16: return f(TypeTag<Half>{});
        case DType::kBFloat16: return f(TypeTag<BFloat16>{});
        default: throw std::invalid_argument("cuda: float32, float16 or bfloat16 expected");
    }
}

/// Throws where there are no kernels for `dtype`: those of the device take a branch without asking.
inline void require_kernels(DType dtype) { with_type(dtype, [](auto) {}); }

/// Blocks of a grid-stride loop over `items` pieces: enough to fill the device, and no more.
inline unsigned blocks_for(std::int64_t items, int threads, int blocks_per_multiprocessor = 8) {
    const std::int64_t wanted = (items + threads - 1) / threads;
    const std::int64_t most =
        std::int64_t{device(current_device()).multiprocessors} * blocks_per_multiprocessor;
    return static_cast<unsigned>(wanted < most ? wanted : most);
}

}  // namespace fastconv::cuda
