// Streams, events and graphs, on the CUDA runtime alone. No kernels.
#include <map>
#include <mutex>
#include <vector>

#include "cuda/device.h"

namespace fastconv::cuda {
namespace {

/// Makes `device` current until the end of the scope.
class OnDevice {
public:
    explicit OnDevice(int device) {
        cudaGetDevice(&before_);
        changed_ = before_ != device;
        if (changed_) check(cudaSetDevice(device), "cudaSetDevice");
    }
    ~OnDevice() {
        if (changed_) cudaSetDevice(before_);
    }
    OnDevice(const OnDevice&) = delete;
    OnDevice& operator=(const OnDevice&) = delete;

private:
    int before_ = 0;
    bool changed_ = false;
};

bool is_default(Stream stream) { return stream <= 1; }

// Streams are never given back to CUDA, only reused: buffers remember the streams that used them, and
// those must stay valid until the last buffer is gone.
struct Streams {
    std::mutex mutex;
    std::map<int, std::vector<cudaStream_t>> idle;  // by device
    std::map<cudaStream_t, int> device;
};

Streams& streams() {
    static auto* const all = new Streams;
    return *all;
}

/// How many graphs this process captures by begin_capture; held while a device is waited for.
struct Captures {
    std::mutex mutex;
    int count = 0;
};

Captures& captures() {
    static auto* const all = new Captures;
    return *all;
}

}  // namespace

// ---- streams and events --------------------------------------------------------------------------

Stream create_stream(int index) {
    device(index);  // throws where there is none
    std::lock_guard<std::mutex> lock(streams().mutex);
    std::vector<cudaStream_t>& idle = streams().idle[index];
    cudaStream_t stream = nullptr;
    if (!idle.empty()) {
        stream = idle.back();
        idle.pop_back();
    } else {
        OnDevice on(index);
        check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreateWithFlags");
        streams().device[stream] = index;
    }
    return reinterpret_cast<Stream>(stream);
}

void destroy_stream(Stream stream) noexcept {
    std::lock_guard<std::mutex> lock(streams().mutex);
    const auto found = streams().device.find(stream_of(stream));
    if (found != streams().device.end()) streams().idle[found->second].push_back(found->first);
}

void synchronize(Stream stream) {
    check(cudaStreamSynchronize(stream_of(stream)), "cudaStreamSynchronize");
}

void synchronize_device(int index) {
    OnDevice on(index);
    check(cudaDeviceSynchronize(), "cudaDeviceSynchronize");
}

bool synchronize_device_unless_capturing(int index) {
    std::lock_guard<std::mutex> lock(captures().mutex);
    if (captures().count > 0) return false;
    synchronize_device(index);
    return true;
}

void wait_for(Stream waiting, Stream other) {
    if (waiting == other || (is_default(waiting) && is_default(other))) return;
    // A wait takes the event's state of now, so that one event a thread and device does for all.
    thread_local std::map<int, cudaEvent_t> events;
    cudaEvent_t& event = events[current_device()];
    if (!event)
        check(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "cudaEventCreateWithFlags");
    check(cudaEventRecord(event, stream_of(other)), "cudaEventRecord");
    check(cudaStreamWaitEvent(stream_of(waiting), event, 0), "cudaStreamWaitEvent");
}

Event create_event() {
    cudaEvent_t event = nullptr;
    check(cudaEventCreate(&event), "cudaEventCreate");
    return reinterpret_cast<Event>(event);
}

void record_event(Event event, Stream stream) {
    check(cudaEventRecord(reinterpret_cast<cudaEvent_t>(event), stream_of(stream)),
          "cudaEventRecord");
}

float elapsed_milliseconds(Event begin, Event end) {
    float milliseconds = 0;
    check(cudaEventSynchronize(reinterpret_cast<cudaEvent_t>(end)), "cudaEventSynchronize");
    check(cudaEventElapsedTime(&milliseconds, reinterpret_cast<cudaEvent_t>(begin),
                               reinterpret_cast<cudaEvent_t>(end)),
          "cudaEventElapsedTime");
    return milliseconds;
}

void destroy_event(Event event) noexcept { cudaEventDestroy(reinterpret_cast<cudaEvent_t>(event)); }

// ---- graphs --------------------------------------------------------------------------------------

bool is_capturing(Stream stream) {
    if (is_default(stream)) return false;
    cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
    check(cudaStreamIsCapturing(stream_of(stream), &status), "cudaStreamIsCapturing");
    return status != cudaStreamCaptureStatusNone;
}

void begin_capture(Stream stream) {
    // Arrays of other streams may be made and released meanwhile, which at once is right for them and
    // the stricter modes forbid (seen on an H100: an allocation in a captured training step).
    std::lock_guard<std::mutex> lock(captures().mutex);
    check(cudaStreamBeginCapture(stream_of(stream), cudaStreamCaptureModeRelaxed),
          "cudaStreamBeginCapture");
    ++captures().count;
}

Graph end_capture(Stream stream) {
    cudaGraph_t graph = nullptr;
    const cudaError_t ended = cudaStreamEndCapture(stream_of(stream), &graph);
    {
        std::lock_guard<std::mutex> lock(captures().mutex);
        captures().count -= captures().count > 0;  // whether or not it was spoilt
    }
    check(ended, "cudaStreamEndCapture");
    cudaGraphExec_t executable = nullptr;
    // Results that were allocated in the capture stay where they are when the graph runs again.
    const cudaError_t status =
        cudaGraphInstantiate(&executable, graph, cudaGraphInstantiateFlagAutoFreeOnLaunch);
    cudaGraphDestroy(graph);
    check(status, "cudaGraphInstantiate");
    return reinterpret_cast<Graph>(executable);
}

void launch_graph(Graph graph, Stream stream) {
    check(cudaGraphLaunch(reinterpret_cast<cudaGraphExec_t>(graph), stream_of(stream)),
          "cudaGraphLaunch");
}

void destroy_graph(Graph graph) noexcept {
    cudaGraphExecDestroy(reinterpret_cast<cudaGraphExec_t>(graph));
}

}  // namespace fastconv::cuda
