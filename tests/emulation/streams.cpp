// Streams, events, captures and graphs.
#include "streams.h"

#include <chrono>
#include <mutex>
#include <set>

#include "memory.h"
#include "order.h"

struct CUevent_st {
    std::chrono::steady_clock::time_point time;
    bool timed = true, recorded = false;
    std::weak_ptr<emulation::Recording> recording;  // of the capture it was last recorded in
    emulation::Before before;
};
struct CUgraph_st {
    std::shared_ptr<emulation::Recording> recording;
};
struct CUgraphExec_st {
    std::shared_ptr<emulation::Recording> recording;
};

namespace emulation {
namespace {

std::recursive_mutex mutex;
std::set<CUstream_st*> streams;
thread_local cudaStreamCaptureMode capture_mode = cudaStreamCaptureModeGlobal;

bool is_default(cudaStream_t stream) {
    return stream == nullptr || stream == cudaStreamLegacy || stream == cudaStreamPerThread;
}

bool is_known(cudaStream_t stream) {
    const std::lock_guard lock(mutex);
    return is_default(stream) || streams.count(stream) != 0;
}

/// Legacy-stream work waits for all blocking streams, which one that is captured cannot allow.
cudaError_t refuse_on_legacy_stream() {
    const std::lock_guard lock(mutex);
    cudaError_t error = cudaSuccess;
    for (CUstream_st* stream : streams) {
        if (!stream->recording || !stream->blocking) continue;
        stream->recording->invalid = true;
        error = cudaErrorStreamCaptureImplicit;
    }
    return error;
}

}  // namespace

Recording::~Recording() {
    for (void* data : memory) Memory::get().end_graph(data);
}

std::shared_ptr<Recording> recording_of(cudaStream_t stream) {
    if (is_default(stream)) return nullptr;
    const std::lock_guard lock(mutex);
    return streams.count(stream) != 0 ? stream->recording : nullptr;
}

cudaError_t synchronize_device() {
    const std::lock_guard lock(mutex);
    for (CUstream_st* stream : streams) {
        if (!stream->recording || stream->device != current_device()) continue;
        stream->recording->invalid = true;
        return cudaErrorStreamCaptureUnsupported;
    }
    for (cudaStream_t stream : {cudaStream_t{}, cudaStreamPerThread}) host_waits_for(end_of(stream));
    for (CUstream_st* stream : streams) host_waits_for(end_of(stream));
    return cudaSuccess;
}

cudaError_t refuse_while_capturing() {
    if (capture_mode == cudaStreamCaptureModeRelaxed) return cudaSuccess;
    const std::lock_guard lock(mutex);
    cudaError_t error = cudaSuccess;
    for (CUstream_st* stream : streams) {
        Recording* recording = stream->recording.get();
        if (!recording || recording->mode == cudaStreamCaptureModeRelaxed) continue;
        // Captures of other threads concern this one only where both are of mode Global.
        const bool own = recording->thread == std::this_thread::get_id();
        if (!own && (capture_mode != cudaStreamCaptureModeGlobal ||
                     recording->mode != cudaStreamCaptureModeGlobal))
            continue;
        recording->invalid = true;
        error = cudaErrorStreamCaptureUnsupported;
    }
    return error;
}

cudaError_t enqueue(cudaStream_t stream, Work work) {
    if (!is_known(stream)) return returned(cudaErrorInvalidResourceHandle);
    if (const auto recording = recording_of(stream)) {
        if (recording->invalid) return returned(cudaErrorStreamCaptureInvalidated);
        recording->work.push_back(std::move(work));
        return cudaSuccess;
    }
    if (stream == nullptr || stream == cudaStreamLegacy) {
        const cudaError_t error = refuse_on_legacy_stream();
        if (error != cudaSuccess) return returned(error);
    }
    begin_work(stream);
    return returned(work());
}

}  // namespace emulation

using namespace emulation;

// ---- streams ------------------------------------------------------------------------------------

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
    if (device_count() == 0) return returned(cudaErrorNoDevice);
    const std::lock_guard lock(mutex);
    *stream = new CUstream_st;
    (*stream)->device = current_device();
    (*stream)->blocking = (flags & cudaStreamNonBlocking) == 0;
    streams.insert(*stream);
    return cudaSuccess;
}

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    return cudaStreamCreateWithFlags(stream, cudaStreamDefault);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int) {
    return cudaStreamCreateWithFlags(stream, flags);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
    const std::lock_guard lock(mutex);
    if (is_default(stream) || streams.erase(stream) == 0)
        return returned(cudaErrorInvalidResourceHandle);
    delete stream;
    return cudaSuccess;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
    if (!is_known(stream)) return returned(cudaErrorInvalidResourceHandle);
    if (const auto recording = recording_of(stream)) {
        recording->invalid = true;
        return returned(cudaErrorStreamCaptureUnsupported);
    }
    host_waits_for(end_of(stream));
    if (stream == nullptr || stream == cudaStreamLegacy) return returned(refuse_on_legacy_stream());
    return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) { return cudaStreamSynchronize(stream); }

cudaError_t cudaStreamGetDevice(cudaStream_t stream, int* device) {
    if (!is_known(stream)) return returned(cudaErrorInvalidResourceHandle);
    *device = is_default(stream) ? current_device() : stream->device;
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
    if (!is_known(stream)) return returned(cudaErrorInvalidResourceHandle);
    const std::lock_guard lock(mutex);
    const auto other = event->recording.lock();
    if (is_default(stream) && other) return returned(cudaErrorStreamCaptureImplicit);
    if (!other && !recording_of(stream)) wait_on(stream, event->before);
    if (is_default(stream)) return cudaSuccess;
    if (stream->recording) {
        if (other == stream->recording) return cudaSuccess;
        stream->recording->invalid = true;
        return returned(other ? cudaErrorStreamCaptureMerge : cudaErrorStreamCaptureIsolation);
    }
    if (other) {  // joins the capture
        stream->recording = other;
        stream->origin = false;
    }
    return cudaSuccess;
}

// ---- events -------------------------------------------------------------------------------------

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
    *event = new CUevent_st;
    (*event)->timed = (flags & cudaEventDisableTiming) == 0;
    return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
    return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete event;
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
    if (!is_known(stream)) return returned(cudaErrorInvalidResourceHandle);
    event->recording = recording_of(stream);
    event->before = event->recording.lock() ? Before{} : end_of(stream);
    event->recorded = true;
    event->time = std::chrono::steady_clock::now();
    return cudaSuccess;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
    if (event->recording.lock()) return returned(cudaErrorCapturedEvent);
    host_waits_for(event->before);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event) { return cudaEventSynchronize(event); }

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
    if (!begin->timed || !end->timed || !begin->recorded || !end->recorded)
        return returned(cudaErrorInvalidResourceHandle);
    *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
    return cudaSuccess;
}

// ---- captures and graphs ------------------------------------------------------------------------

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, cudaStreamCaptureMode mode) {
    if (!is_known(stream)) return returned(cudaErrorInvalidResourceHandle);
    const std::lock_guard lock(mutex);
    if (is_default(stream)) return returned(cudaErrorStreamCaptureUnsupported);
    if (stream->recording) return returned(cudaErrorInvalidValue);
    stream->recording = std::make_shared<Recording>();
    stream->recording->mode = mode;
    stream->origin = true;
    return cudaSuccess;
}

cudaError_t cudaStreamIsCapturing(cudaStream_t stream, cudaStreamCaptureStatus* status) {
    const auto recording = recording_of(stream);
    *status = !recording           ? cudaStreamCaptureStatusNone
              : recording->invalid ? cudaStreamCaptureStatusInvalidated
                                   : cudaStreamCaptureStatusActive;
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t* graph) {
    const std::lock_guard lock(mutex);
    *graph = nullptr;
    const auto recording = recording_of(stream);
    if (!recording) return returned(cudaErrorInvalidValue);
    if (!stream->origin) return returned(cudaErrorStreamCaptureUnmatched);
    if (recording->mode != cudaStreamCaptureModeRelaxed &&
        recording->thread != std::this_thread::get_id())
        return returned(cudaErrorStreamCaptureWrongThread);
    for (CUstream_st* other : streams) {
        if (other->recording == recording) other->recording = nullptr, other->origin = false;
    }
    if (recording->invalid) return returned(cudaErrorStreamCaptureInvalidated);
    // Events that were recorded in it must not lead to it any longer.
    auto finished = std::make_shared<Recording>();
    finished->work.swap(recording->work);
    finished->memory.swap(recording->memory);
    *graph = new CUgraph_st{finished};
    return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
    const cudaStreamCaptureMode before = capture_mode;
    capture_mode = *mode;
    *mode = before;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t* exec, cudaGraph_t graph, unsigned long long) {
    *exec = new CUgraphExec_st{graph->recording};
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t stream) {
    const auto recording = exec->recording;
    return enqueue(stream, [recording] {
        for (const Work& work : recording->work) {
            const cudaError_t error = work();
            if (error != cudaSuccess) return error;
        }
        return cudaSuccess;
    });
}

cudaError_t cudaGraphUpload(cudaGraphExec_t, cudaStream_t) { return cudaSuccess; }

cudaError_t cudaGraphGetNodes(cudaGraph_t graph, cudaGraphNode_t*, std::size_t* count) {
    *count = graph->recording->work.size();
    return cudaSuccess;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete graph;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec) {
    delete exec;
    return cudaSuccess;
}
