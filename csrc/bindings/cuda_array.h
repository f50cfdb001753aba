// Arrays in CUDA device memory as views, the class _core.cuda.Array: what fc.cuda.Array is and what
// tensors of CuPy, PyTorch and JAX become (without a copy) before a kernel sees them.
//
// Order between streams. Work on one stream runs in order. An array knows the stream it was allocated
// on, its home: a call on another stream first waits for what home had been given so far, and memory
// goes back to the pool when every stream that used it is done. What two other streams do with one
// array is theirs to order (fc.cuda.Stream.wait).
//
// Captures. While a thread captures a graph, every array from outside that its calls use is kept alive
// by the graph; what is allocated inside belongs to the graph.
#pragma once

#include <pybind11/pybind11.h>

#include <initializer_list>
#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "ops.h"

namespace fastconv {

namespace py = pybind11;

/// Device memory that goes back to the pool when its last view is gone, on the stream it came from;
/// or memory of somebody else, kept alive by `keep`.
class CudaBuffer {
public:
    /// Of the device that is current.
    CudaBuffer(std::size_t bytes, int device, cuda::Stream stream);
    CudaBuffer(void* data, int device, std::shared_ptr<void> keep, PyObject* tensor = nullptr);
    ~CudaBuffer();
    CudaBuffer(const CudaBuffer&) = delete;
    CudaBuffer& operator=(const CudaBuffer&) = delete;

    void* data() const { return data_; }
    int device() const { return device_; }
    bool owned() const { return owned_; }
    cuda::Stream home() const { return stream_; }
    bool allocated_in_capture() const { return capture_ != 0; }
    /// The PyTorch tensor whose memory it is, kept alive here: of an operand or a result of one call.
    /// Null for all other memory, that of tensors which somebody holds as an Array included.
    PyObject* tensor() const { return tensor_; }
    /// Notes that work on `stream` touches the memory: of owned memory, which waits for it at its end.
    void used_on(cuda::Stream stream);

private:
    void* data_;
    int device_;
    cuda::Stream stream_ = 0;
    bool owned_;
    std::uint64_t capture_ = 0;  // in which it was allocated: a serial number, 0 for none
    std::shared_ptr<void> keep_;
    PyObject* tensor_ = nullptr;
    std::mutex mutex_;
    std::vector<cuda::Stream> others_;  // streams but home that used it
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
    std::int64_t item_bytes() const { return element_bytes_of(dtype); }
    int device() const { return buffer->device(); }
};

/// The stream fastconv's own arrays use in this thread: `with fc.cuda.Stream():`, else the default's.
cuda::Stream current_stream();
/// Sets it for a device, in this thread; returns the one before.
cuda::Stream set_current_stream(int device, cuda::Stream stream);

/// This thread's capture begins or ends on `stream`. The arrays that it used live as long as what end
/// returns.
void begin_capture(cuda::Stream stream);
struct CapturedGraph {
    cuda::Graph graph;
    cuda::Stream stream;  // that was captured, the home of what was allocated there
    std::vector<std::shared_ptr<CudaBuffer>> used;
};
CapturedGraph end_capture(cuda::Stream stream);
/// Memory that is no operand of a call, the host's: as long as the graph that this thread captures.
void keep_in_capture(std::shared_ptr<CudaBuffer> buffer);
/// Runs it on `stream` after the homes of the arrays that it uses; that of its own arrays, of its
/// results therefore, waits for it.
void launch_graph(const CapturedGraph& captured, cuda::Stream stream);

/// Gives memory that had to wait for the end of a capture back to the pool, where no stream that used
/// it is captured any longer; also done before memory is asked for.
void release_parked();

/// The serial number of the capture that the stream takes part in: one number for all that are not of
/// this thread, 0 for none.
std::uint64_t capture_on(cuda::Stream stream);

/// The legacy default stream has two names.
inline bool same_stream(cuda::Stream a, cuda::Stream b) { return a == b || (a <= 1 && b <= 1); }

/// Whether the stream records a graph, ours or another library's.
bool is_captured(cuda::Stream stream);

/// What a binding does first: makes the operands' device current until the end of the scope, and says
/// on which stream to work: that of the first operand which has its library's, else current_stream().
/// It waits for the others' libraries' streams as for homes. Null operands are skipped; operands on different devices are a std::invalid_argument.
class CudaCall {
public:
    CudaCall(std::initializer_list<const CudaArray*> operands);
    /// On `device`, without operands.
    explicit CudaCall(int device);
    ~CudaCall();
    CudaCall(const CudaCall&) = delete;
    CudaCall& operator=(const CudaCall&) = delete;
    cuda::Stream stream() const { return stream_; }

private:
    void make_current(int device);
    int before_ = -1;  // the device to return to; -1: none
    cuda::Stream stream_ = 0;
};

/// A new array on the current device, to be used on `stream`; contents undefined. Channels last: the
/// second of at least three dimensions varies fastest in memory.
CudaArray empty_array(std::vector<std::int64_t> shape, DType dtype, bool channels_last,
                      cuda::Stream stream);
/// Its shape, dtype and strides, no memory yet.
CudaArray unallocated(std::vector<std::int64_t> shape, DType dtype, bool channels_last);

/// An operand that may be None: null. As an argument of type `const CudaArray*`, None would be looked
/// up among the types of other modules first (0.4 us each).
const CudaArray* array_or_null(py::handle object);

/// Tensors for the kernels; `written` throws where the array is read-only.
Tensor tensor_of(const CudaArray& array);
Tensor written_tensor_of(const CudaArray& array);
/// Strides of an (N, C, H, W) or (K, C, R, S) array in elements.
Strides strides_of(const CudaArray& array);
/// Throws unless both have the same shape and dtype.
void require_alike(const CudaArray& a, const CudaArray& b);
/// Whether address and strides (but unit ones) are multiples of 16 bytes.
bool is_aligned(const CudaArray& array);
/// Whether elements follow each other without gaps in the order of the dimensions.
bool is_c_contiguous(const CudaArray& array);

}  // namespace fastconv
