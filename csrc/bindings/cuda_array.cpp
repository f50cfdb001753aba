// The streams and captures that use arrays, and views for the kernels.
#include "bindings/cuda_array.h"

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <utility>

namespace fastconv {
namespace {

struct Capture {
    std::uint64_t serial = 0;  // 0: none
    cuda::Stream stream = 0;
    std::vector<std::shared_ptr<CudaBuffer>> used;
};
thread_local Capture capture;

// A capture that is not ours (another library's) has this serial.
constexpr std::uint64_t kForeign = ~std::uint64_t{0};

struct DeviceStream {
    int device;
    cuda::Stream stream;
};
thread_local std::vector<DeviceStream> current_streams;

cuda::Stream current_stream_of(int device) {
    for (const DeviceStream& entry : current_streams)
        if (entry.device == device) return entry.stream;
    return 0;
}

/// Unless one of them is captured: a graph's work waits when it is launched.
void wait_unless_captured(cuda::Stream waiting, cuda::Stream other) {
    if (!same_stream(waiting, other) && capture_on(waiting) == 0 && capture_on(other) == 0)
        cuda::wait_for(waiting, other);
}

void order(const CudaArray& array, cuda::Stream stream) {
    CudaBuffer& buffer = *array.buffer;
    if (capture.serial != 0 && capture.stream == stream && !buffer.allocated_in_capture() &&
        std::find(capture.used.begin(), capture.used.end(), array.buffer) == capture.used.end())
        capture.used.push_back(array.buffer);
    if (!buffer.owned()) return;
    buffer.used_on(stream);
    wait_unless_captured(stream, buffer.home());
}

}  // namespace

// ---- new arrays -------------------------------------------------------------------------------------

CudaArray unallocated(std::vector<std::int64_t> shape, DType dtype, bool channels_last) {
    CudaArray array;
    array.dtype = dtype;
    array.shape = std::move(shape);
    const int rank = array.rank();
    if (rank > kMaxRank)
        throw std::invalid_argument("an array has " + std::to_string(rank) +
                                    " dimensions; at most " + std::to_string(kMaxRank) + " work");
    array.elems.assign(array.shape.size(), 0);
    std::int64_t count = 1;
    bool fits = true;
    auto place = [&](int d) {
        const auto i = static_cast<std::size_t>(d);
        if (array.shape[i] < 0)
            throw std::invalid_argument("an array cannot have a size of " +
                                        std::to_string(array.shape[i]));
        array.elems[i] = count;
        // A size of 0 leaves the strides of the others as NumPy has them.
        const std::int64_t size = std::max<std::int64_t>(array.shape[i], 1);
        fits = fits && count <= (INT64_MAX >> 4) / size;
        if (fits) count *= size;
    };
    const bool last = channels_last && rank >= 3;
    if (last) place(1);
    for (int d = rank - 1; d >= 0; --d)
        if (!(last && d == 1)) place(d);
    if (!fits) throw std::bad_alloc();
    return array;
}

CudaArray empty_array(std::vector<std::int64_t> shape, DType dtype, bool channels_last,
                      cuda::Stream stream) {
    CudaArray array = unallocated(std::move(shape), dtype, channels_last);
    const std::int64_t bytes = array.size() * array.item_bytes();
    array.buffer = std::make_shared<CudaBuffer>(static_cast<std::size_t>(bytes),
                                                cuda::current_device(), stream);
    array.data = array.buffer->data();
    return array;
}

// ---- streams and captures ------------------------------------------------------------------------

cuda::Stream current_stream() {
    return current_streams.empty() ? 0 : current_stream_of(cuda::current_device());
}

cuda::Stream set_current_stream(int device, cuda::Stream stream) {
    for (DeviceStream& entry : current_streams)
        if (entry.device == device) return std::exchange(entry.stream, stream);
    current_streams.push_back({device, stream});
    return 0;
}

void begin_capture(cuda::Stream stream) {
    static std::atomic<std::uint64_t> serials{0};
    if (capture.serial != 0) throw std::runtime_error("this thread is capturing a graph already");
    cuda::begin_capture(stream);
    capture = {++serials, stream, {}};
}

void keep_in_capture(std::shared_ptr<CudaBuffer> buffer) {
    if (capture.serial != 0) capture.used.push_back(std::move(buffer));
}

CapturedGraph end_capture(cuda::Stream stream) {
    CapturedGraph captured{0, stream, std::move(capture.used)};
    capture = {};
    captured.graph = cuda::end_capture(stream);
    release_parked();
    return captured;
}

void launch_graph(const CapturedGraph& captured, cuda::Stream stream) {
    std::vector<cuda::Stream> homes;  // most arrays have the same
    for (const auto& buffer : captured.used) {
        const cuda::Stream home = buffer->home();
        if (!buffer->owned() || same_stream(home, stream)) continue;
        buffer->used_on(stream);
        if (std::find(homes.begin(), homes.end(), home) == homes.end()) homes.push_back(home);
    }
    for (const cuda::Stream home : homes) wait_unless_captured(stream, home);
    cuda::launch_graph(captured.graph, stream);
    wait_unless_captured(captured.stream, stream);
}

std::uint64_t capture_on(cuda::Stream stream) {
    if (capture.serial != 0 && capture.stream == stream) return capture.serial;
    return cuda::is_capturing(stream) ? kForeign : 0;
}

bool is_captured(cuda::Stream stream) { return capture_on(stream) != 0; }

CudaCall::CudaCall(std::initializer_list<const CudaArray*> operands) {
    const CudaArray* first = nullptr;
    std::optional<cuda::Stream> theirs;
    for (const CudaArray* operand : operands) {
        if (!operand) continue;
        if (!first) first = operand;
        if (!theirs) theirs = operand->stream;
        if (operand->device() != first->device())
            throw std::invalid_argument("arrays on different devices: GPU " +
                                        std::to_string(first->device()) + " and GPU " +
                                        std::to_string(operand->device()));
    }
    make_current(first ? first->device() : cuda::current_device());
    stream_ = theirs ? *theirs : current_stream();
    for (const CudaArray* operand : operands) {
        if (!operand) continue;
        order(*operand, stream_);
        if (operand->stream) wait_unless_captured(stream_, *operand->stream);
    }
}

CudaCall::CudaCall(int device) {
    make_current(device);
    stream_ = current_stream();
}

CudaCall::~CudaCall() {
    if (before_ < 0) return;
    try {
        cuda::set_device(before_);
    } catch (const std::exception&) {
        // It was current before; an error now is the device's and shows at the next call.
    }
}

void CudaCall::make_current(int device) {
    const int current = cuda::current_device();
    if (current == device) return;
    cuda::set_device(device);
    before_ = current;
}

// ---- views ---------------------------------------------------------------------------------------

std::int64_t CudaArray::size() const {
    std::int64_t count = 1;
    for (const std::int64_t n : shape) count *= n;
    return count;
}

const CudaArray* array_or_null(py::handle object) {
    return object.is_none() ? nullptr : object.cast<const CudaArray*>();
}

Tensor tensor_of(const CudaArray& array) {
    Tensor tensor;
    tensor.data = array.data;
    tensor.dtype = array.dtype;
    tensor.rank = array.rank();
    std::copy(array.shape.begin(), array.shape.end(), tensor.size);
    std::copy(array.elems.begin(), array.elems.end(), tensor.elems);
    return tensor;
}

Tensor written_tensor_of(const CudaArray& array) {
    if (!array.writable) throw std::invalid_argument("the array is read-only");
    return tensor_of(array);
}

Strides strides_of(const CudaArray& array) {
    if (array.rank() != 4) throw std::invalid_argument("_core: array of another rank expected");
    return {array.elems[0], array.elems[1], array.elems[2], array.elems[3]};
}

void require_alike(const CudaArray& a, const CudaArray& b) {
    if (a.shape != b.shape || a.dtype != b.dtype)
        throw std::invalid_argument("_core: arrays of one shape and dtype expected");
}

bool is_aligned(const CudaArray& array) {
    if (reinterpret_cast<std::uintptr_t>(array.data) % 16 != 0) return false;
    for (std::size_t d = 0; d < array.shape.size(); ++d)
        if (array.shape[d] > 1 && array.elems[d] != 1 &&
            array.elems[d] * array.item_bytes() % 16 != 0)
            return false;
    return true;
}

bool is_c_contiguous(const CudaArray& array) {
    std::int64_t within = 1;
    for (std::size_t d = array.shape.size(); d-- > 0;) {
        if (array.shape[d] == 0) return true;
        if (array.shape[d] > 1 && array.elems[d] != within) within = -1;
        if (within < 0) break;
        within *= array.shape[d];
    }
    return within >= 0 || array.size() == 0;
}

}  // namespace fastconv
