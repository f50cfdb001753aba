// Streams do what is enqueued at once, or record it while they are captured into a graph.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "include/emulation/api.h"

namespace emulation {

using Work = std::function<cudaError_t()>;

/// A capture while it goes on, then what graphs share: work in the order it was enqueued, and the
/// memory that was allocated in it.
struct Recording {
    std::vector<Work> work;
    std::vector<void*> memory;
    cudaStreamCaptureMode mode = cudaStreamCaptureModeGlobal;
    std::thread::id thread = std::this_thread::get_id();  // where it began
    std::atomic<bool> invalid{false};  // other threads spoil captures of mode Global
    ~Recording();
};

/// Remembers an error for cudaGetLastError.
cudaError_t returned(cudaError_t error);

/// Runs or records `work`.
cudaError_t enqueue(cudaStream_t stream, Work work);

/// The capture that `stream` takes part in, or null.
std::shared_ptr<Recording> recording_of(cudaStream_t stream);

/// For what no capture allows in its thread (cudaMalloc), nor one of mode Global
/// in other threads: an error that also spoils those captures. The rules are those of
/// cudaThreadExchangeStreamCaptureMode in the CUDA Runtime API.
cudaError_t refuse_while_capturing();

/// An error that spoils it where a stream of the device is captured, in whatever mode ("a broader
/// handle which encompasses an active stream capture", CUDA C++ Programming Guide).
cudaError_t synchronize_device();

int device_count();
int current_device();

}  // namespace emulation

struct CUstream_st {
    int device = 0;
    bool blocking = true;  // towards the legacy default stream
    bool origin = false;   // the capture began here
    std::shared_ptr<emulation::Recording> recording;
};
