// Arrays in CUDA device memory as views, the class _core.cuda.Array: what fc.cuda.Array is and what
// tensors of CuPy, PyTorch and JAX become (without a copy) before a kernel sees them.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <memory>
#include <optional>
#include <vector>

#include "ops.h"

namespace fastconv {

namespace py = pybind11;

/// Device memory that goes back to the pool when its last view is gone, on the stream it came from;
/// or memory of somebody else, kept alive by `keep`.
class CudaBuffer {
public:
    CudaBuffer(std::size_t bytes, int device, cuda::Stream stream);
    CudaBuffer(void* data, int device, std::shared_ptr<void> keep);
    ~CudaBuffer();
    CudaBuffer(const CudaBuffer&) = delete;
    CudaBuffer& operator=(const CudaBuffer&) = delete;

    void* data() const { return data_; }
    int device() const { return device_; }

private:
    void* data_;
    int device_;
    cuda::Stream stream_ = 0;
    bool owned_;
    std::shared_ptr<void> keep_;
};

/// float32, float16, bfloat16 or int64, any strides.
struct CudaArray {
    std::shared_ptr<CudaBuffer> buffer;
    void* data = nullptr;
    DType dtype = DType::kFloat32;
    std::vector<std::int64_t> shape;
    std::vector<std::int64_t> elems;  // strides, in elements
    bool writable = true;
    std::optional<cuda::Stream> stream;  // that of the tensor's own library; else the current one

    int rank() const { return static_cast<int>(shape.size()); }
    std::int64_t size() const;
    int device() const { return buffer->device(); }
};

/// The stream fastconv's own arrays use in this thread: `with fc.cuda.Stream():`, else the default's.
cuda::Stream current_stream();

/// What a binding does first: makes the operands' device current until the end of the scope, and says
/// on which stream to work: the first operand's library's, else current_stream(). Null operands are
/// skipped; operands on different devices are a std::invalid_argument.
class CudaCall {
public:
    CudaCall(std::initializer_list<const CudaArray*> operands);
    ~CudaCall();
    CudaCall(const CudaCall&) = delete;
    CudaCall& operator=(const CudaCall&) = delete;
    cuda::Stream stream() const { return stream_; }

private:
    int before_;
    cuda::Stream stream_;
};

/// Tensors for the kernels; `written` throws where the array is read-only.
Tensor tensor_of(const CudaArray& array);
Tensor written_tensor_of(const CudaArray& array);
/// Strides of an (N, C, H, W) or (K, C, R, S) array in elements.
Strides strides_of(const CudaArray& array);
/// Throws unless both have the same shape and dtype.
void require_alike(const CudaArray& a, const CudaArray& b);
/// Whether address and strides (but unit ones) are multiples of 16 bytes.
bool is_aligned(const CudaArray& array);

}  // namespace fastconv
