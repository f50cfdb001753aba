// PyTorch's tensors as CUDA arrays for the time of a call, and results in PyTorch's own memory.
#pragma once

#include "bindings/cuda_array.h"

namespace fastconv {

/// Keeps a Python object until the last view is gone, on whatever thread that is.
std::shared_ptr<void> keep_alive(py::handle object);

/// As empty_array, for a call on `like`: in a new tensor, where `like` is the tensor of one call.
CudaArray empty_beside(const CudaArray* like, std::vector<std::int64_t> shape, DType dtype,
                       bool channels_last, cuda::Stream stream);

}  // namespace fastconv
