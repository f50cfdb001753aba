// Kernels that do one thing that a kernel must not do, for the report that the emulation gives; and
// what the emulated runtime refuses. misuse(name) returns the report, empty if nothing was noticed.
#include <cuda_runtime.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <thread>

#include "cuda/ptx.cuh"

namespace {

namespace ptx = fastconv::cuda::ptx;
constexpr unsigned kAll = 0xffffffffu;

struct alignas(16) Four {
    float value[4];
};

// Every kernel runs with 64 threads, 96 bytes of shared memory and 10 floats of device memory at x.
__global__ void nothing(float* x) {
    if (threadIdx.x < 10) x[threadIdx.x] = 1.0f;
    __syncthreads();
    __syncwarp();
}
__global__ void barrier_after_exit(float*) {
    if (threadIdx.x >= 32) return;
    __syncthreads();
}
__global__ void two_barriers(float*) {
    if (threadIdx.x < 32) {
        __syncthreads();
    } else {
        __syncthreads();
    }
}
__global__ void barrier_in_half_a_warp(float* x) {
    if (threadIdx.x % 32 < 16) __syncthreads();
    x[0] = static_cast<float>(__shfl_xor_sync(kAll, 1, 1));
}
__global__ void shuffle_after_exit(float* x) {
    if (threadIdx.x == 40) return;
    x[0] = static_cast<float>(__shfl_xor_sync(kAll, 1, 1));
}
__global__ void shuffle_and_vote(float* x) {
    x[0] = threadIdx.x % 2 == 0 ? static_cast<float>(__shfl_xor_sync(kAll, 1, 1))
                                : static_cast<float>(__ballot_sync(kAll, 1));
}
__global__ void read_past_end(float* x) { x[0] = x[threadIdx.x]; }
__global__ void write_past_end(float* x) { x[threadIdx.x % 11] = 0.0f; }
__global__ void write_before_start(float* x) { x[-1 - static_cast<int>(threadIdx.x % 2)] = 0.0f; }
__global__ void null_pointer(float* x) {
    if (threadIdx.x == 5) *reinterpret_cast<volatile int*>(x - x) = 0;
}
__global__ void shared_past_end(float* x) {
    x[0] = reinterpret_cast<volatile float*>(ptx::shared_memory())[threadIdx.x * 16];
}
__global__ void shared_write_past_end(float*) {
    reinterpret_cast<volatile float*>(ptx::shared_memory())[threadIdx.x % 25] = 0.0f;
}
__global__ void misaligned_vector(float* x) {
    *reinterpret_cast<Four*>(x + 4) = *reinterpret_cast<const Four*>(x + threadIdx.x % 2);
}
__global__ void misaligned_float(float* x) {
    x[0] = *reinterpret_cast<const float*>(reinterpret_cast<const char*>(x) + threadIdx.x % 4);
}
__global__ void misaligned_copy(float* x) { ptx::cp_async_16(ptx::shared_memory() + 8, x, true); }
__global__ void copy_past_end(float* x) {
    ptx::cp_async_16(ptx::shared_memory(), x + threadIdx.x / 2 * 4, true);
}
__global__ void load_matrix_outside(float*) {
    std::uint32_t r[4];
    ptx::ldmatrix_x4(r, ptx::shared_memory() + threadIdx.x % 32 * 16);
}
__global__ void division_by_zero(float* x) {
    volatile int zero = 0;
    x[0] = static_cast<float>(static_cast<int>(threadIdx.x) / zero);
}
__global__ void deep_recursion(float* x) {
    volatile char local[100000];
    for (int i = 0; i < 100000; i += 64) local[i] = static_cast<char>(threadIdx.x);
    x[0] = static_cast<float>(local[threadIdx.x]);
}

struct Case {
    const char* name;
    void (*kernel)(float*);
};
#define FASTCONV_CASE(name) {#name, name}
const Case kCases[] = {
    FASTCONV_CASE(nothing),
    FASTCONV_CASE(barrier_after_exit),
    FASTCONV_CASE(two_barriers),
    FASTCONV_CASE(barrier_in_half_a_warp),
    FASTCONV_CASE(shuffle_after_exit),
    FASTCONV_CASE(shuffle_and_vote),
    FASTCONV_CASE(read_past_end),
    FASTCONV_CASE(write_past_end),
    FASTCONV_CASE(write_before_start),
    FASTCONV_CASE(null_pointer),
    FASTCONV_CASE(shared_past_end),
    FASTCONV_CASE(shared_write_past_end),
    FASTCONV_CASE(misaligned_vector),
    FASTCONV_CASE(misaligned_copy),
    FASTCONV_CASE(misaligned_float),
    FASTCONV_CASE(copy_past_end),
    FASTCONV_CASE(load_matrix_outside),
    FASTCONV_CASE(division_by_zero),
    FASTCONV_CASE(deep_recursion),
};

cudaError_t launch(void (*kernel)(float*), float* x, cudaStream_t stream = nullptr,
                   std::size_t shared_bytes = 96) {
    cudaLaunchConfig_t config{};
    config.gridDim = dim3(2);
    config.blockDim = dim3(64);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream;
    return cudaLaunchKernelEx(&config, kernel, x);
}

__global__ void add_one(float* x) {
    if (blockIdx.x == 0 && threadIdx.x < 10) x[threadIdx.x] += 1.0f;
}
__global__ void add_pair(float* x, const float* y) {
    if (blockIdx.x == 0 && threadIdx.x < 10) x[threadIdx.x] += y[threadIdx.x];
}

#define FASTCONV_EXPECT(condition) \
    if (!(condition)) return "line " + std::to_string(__LINE__) + ": " #condition;

/// A captured graph works as often as it is launched; its memory exists only within it.
std::string graphs() {
    cudaStream_t stream = nullptr;
    cudaGraph_t graph = nullptr;
    cudaGraphExec_t exec = nullptr;
    void *data = nullptr, *inner = nullptr, *kept = nullptr;
    float host[10] = {};
    FASTCONV_EXPECT(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) == cudaSuccess);
    FASTCONV_EXPECT(cudaMalloc(&data, sizeof host) == cudaSuccess);
    auto* x = static_cast<float*>(data);
    cudaMemcpy(x, host, sizeof host, cudaMemcpyHostToDevice);
    FASTCONV_EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) ==
                    cudaSuccess);
    FASTCONV_EXPECT(cudaMallocAsync(&inner, sizeof host, stream) == cudaSuccess);
    FASTCONV_EXPECT(cudaMallocAsync(&kept, sizeof host, stream) == cudaSuccess);
    cudaMemsetAsync(inner, 0, sizeof host, stream);
    FASTCONV_EXPECT(launch(add_one, static_cast<float*>(inner), stream) == cudaSuccess);
    cudaLaunchConfig_t config{};
    config.blockDim = dim3(32);
    config.stream = stream;
    FASTCONV_EXPECT(cudaLaunchKernelEx(&config, add_pair, x,
                                       static_cast<const float*>(static_cast<float*>(inner))) ==
                    cudaSuccess);
    cudaMemcpyAsync(kept, x, sizeof host, cudaMemcpyDeviceToDevice, stream);
    FASTCONV_EXPECT(cudaFreeAsync(inner, stream) == cudaSuccess);
    FASTCONV_EXPECT(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    FASTCONV_EXPECT(x[0] == 0.0f);  // nothing has run yet
    FASTCONV_EXPECT(cudaGraphInstantiate(&exec, graph, 0) == cudaSuccess);
    cudaGraphDestroy(graph);
    for (int run = 1; run <= 3; ++run) {
        FASTCONV_EXPECT(cudaGraphLaunch(exec, stream) == cudaSuccess);
        cudaMemcpy(host, x, sizeof host, cudaMemcpyDeviceToHost);
        FASTCONV_EXPECT(host[0] == static_cast<float>(run) && host[9] == host[0]);
    }
    FASTCONV_EXPECT(launch(add_one, static_cast<float*>(inner)) == cudaErrorIllegalAddress);
    cudaGraphExecDestroy(exec);
    FASTCONV_EXPECT(cudaMemcpy(host, kept, sizeof host, cudaMemcpyDeviceToHost) == cudaSuccess);
    FASTCONV_EXPECT(host[5] == 3.0f);
    FASTCONV_EXPECT(cudaFreeAsync(kept, stream) == cudaSuccess);
    FASTCONV_EXPECT(cudaFreeAsync(kept, stream) == cudaErrorInvalidValue);
    cudaFree(data);
    cudaStreamDestroy(stream);
    return {};
}

/// What a capture forbids spoils it.
std::string captures() {
    cudaStream_t stream = nullptr, other = nullptr;
    cudaGraph_t graph = nullptr;
    cudaEvent_t event = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    cudaStreamCreateWithFlags(&other, cudaStreamNonBlocking);
    cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
    for (int way = 0; way < 4; ++way) {
        FASTCONV_EXPECT(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal) ==
                        cudaSuccess);
        void* data = nullptr;
        if (way == 0) FASTCONV_EXPECT(cudaStreamSynchronize(stream) != cudaSuccess);
        if (way == 1) FASTCONV_EXPECT(cudaMalloc(&data, 4) != cudaSuccess);
        if (way == 2) FASTCONV_EXPECT(cudaDeviceSynchronize() != cudaSuccess);
        if (way == 3) {  // on work that the graph does not know
            cudaEventRecord(event, other);
            FASTCONV_EXPECT(cudaStreamWaitEvent(stream, event) == cudaErrorStreamCaptureIsolation);
        }
        FASTCONV_EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    }
    // A second stream takes part where it waits for the first.
    void* data = nullptr;
    cudaMalloc(&data, 40);
    cudaMemset(data, 0, 40);
    auto* x = static_cast<float*>(data);
    cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal);
    cudaEventRecord(event, stream);
    FASTCONV_EXPECT(cudaStreamWaitEvent(other, event) == cudaSuccess);
    FASTCONV_EXPECT(launch(add_one, x, other) == cudaSuccess);
    cudaEventRecord(event, other);
    FASTCONV_EXPECT(cudaStreamWaitEvent(stream, event) == cudaSuccess);
    FASTCONV_EXPECT(cudaStreamEndCapture(other, &graph) == cudaErrorStreamCaptureUnmatched);
    FASTCONV_EXPECT(cudaStreamEndCapture(stream, &graph) == cudaSuccess);
    FASTCONV_EXPECT(x[0] == 0.0f);
    cudaGraphDestroy(graph);
    cudaFree(data);
    cudaEventDestroy(event);
    cudaStreamDestroy(stream);
    cudaStreamDestroy(other);
    return {};
}

/// What a capture forbids to other threads: all that it forbids to its own if both are of mode
/// Global, else only to end it.
std::string captures_and_threads() {
    constexpr cudaStreamCaptureMode kGlobal = cudaStreamCaptureModeGlobal;
    constexpr cudaStreamCaptureMode kThreadLocal = cudaStreamCaptureModeThreadLocal;
    constexpr cudaStreamCaptureMode kRelaxed = cudaStreamCaptureModeRelaxed;
    const struct {
        cudaStreamCaptureMode capture, other_thread;
        bool refused;
    } pairs[] = {{kGlobal, kGlobal, true},       {kGlobal, kThreadLocal, false},
                 {kGlobal, kRelaxed, false},     {kThreadLocal, kGlobal, false},
                 {kThreadLocal, kRelaxed, false}, {kRelaxed, kGlobal, false}};
    cudaStream_t stream = nullptr;
    cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
    for (const auto& pair : pairs) {
        cudaGraph_t graph = nullptr;
        cudaError_t allocated{}, ended{};
        FASTCONV_EXPECT(cudaStreamBeginCapture(stream, pair.capture) == cudaSuccess);
        std::thread([&] {
            cudaStreamCaptureMode mode = pair.other_thread;
            cudaThreadExchangeStreamCaptureMode(&mode);
            void* data = nullptr;
            allocated = cudaMalloc(&data, 4);
            cudaFree(data);
            if (pair.capture != kRelaxed) ended = cudaStreamEndCapture(stream, &graph);
        }).join();
        FASTCONV_EXPECT((allocated != cudaSuccess) == pair.refused);
        FASTCONV_EXPECT(pair.capture == kRelaxed || ended == cudaErrorStreamCaptureWrongThread);
        FASTCONV_EXPECT(cudaStreamEndCapture(stream, &graph) ==
                        (pair.refused ? cudaErrorStreamCaptureInvalidated : cudaSuccess));
        cudaGraphDestroy(graph);
    }
    // Any thread may end one of mode Relaxed.
    cudaGraph_t graph = nullptr;
    cudaError_t ended = cudaErrorUnknown;
    FASTCONV_EXPECT(cudaStreamBeginCapture(stream, kRelaxed) == cudaSuccess);
    std::thread([&] { ended = cudaStreamEndCapture(stream, &graph); }).join();
    FASTCONV_EXPECT(ended == cudaSuccess);
    cudaGraphDestroy(graph);
    // In no mode may a thread wait for the whole device.
    FASTCONV_EXPECT(cudaStreamBeginCapture(stream, kRelaxed) == cudaSuccess);
    std::thread([&] { ended = cudaDeviceSynchronize(); }).join();
    FASTCONV_EXPECT(ended == cudaErrorStreamCaptureUnsupported);
    FASTCONV_EXPECT(cudaStreamEndCapture(stream, &graph) == cudaErrorStreamCaptureInvalidated);
    cudaStreamDestroy(stream);
    return {};
}

std::string memory() {
    void *data = nullptr, *pinned = nullptr, *huge = nullptr;
    float host[10] = {};
    FASTCONV_EXPECT(cudaMalloc(&data, sizeof host) == cudaSuccess);
    FASTCONV_EXPECT(cudaMallocHost(&pinned, sizeof host) == cudaSuccess);
    cudaPointerAttributes attributes{};
    cudaPointerGetAttributes(&attributes, static_cast<char*>(data) + 39);
    FASTCONV_EXPECT(attributes.type == cudaMemoryTypeDevice && attributes.device == 0);
    cudaPointerGetAttributes(&attributes, pinned);
    FASTCONV_EXPECT(attributes.type == cudaMemoryTypeHost);
    cudaPointerGetAttributes(&attributes, host);
    FASTCONV_EXPECT(attributes.type == cudaMemoryTypeUnregistered);
    // Fresh memory is NaN; a copy must lie within its arrays, and host and device be what it says.
    FASTCONV_EXPECT(cudaMemcpy(host, data, sizeof host, cudaMemcpyDeviceToHost) == cudaSuccess);
    FASTCONV_EXPECT(host[0] != host[0] && host[9] != host[9]);
    FASTCONV_EXPECT(cudaMemcpy(host, data, 44, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    FASTCONV_EXPECT(cudaMemcpy(data, host, 40, cudaMemcpyDeviceToHost) == cudaErrorInvalidValue);
    FASTCONV_EXPECT(cudaMemset(host, 0, 40) == cudaErrorInvalidValue);
    FASTCONV_EXPECT(cudaMalloc(&huge, std::size_t{1} << 40) == cudaErrorMemoryAllocation);
    cudaFree(data);
    FASTCONV_EXPECT(launch(add_one, static_cast<float*>(data)) == cudaErrorIllegalAddress);
    FASTCONV_EXPECT(std::strstr(cudaGetErrorString(cudaErrorIllegalAddress), "freed (40 bytes)"));
    FASTCONV_EXPECT(cudaFree(data) == cudaErrorInvalidValue);
    cudaFreeHost(pinned);
    // 48 KB unless asked for; an error is remembered once.
    FASTCONV_EXPECT(launch(nothing, nullptr, nullptr, 50000) == cudaErrorInvalidConfiguration);
    FASTCONV_EXPECT(cudaGetLastError() == cudaErrorInvalidConfiguration);
    FASTCONV_EXPECT(cudaGetLastError() == cudaSuccess);
    FASTCONV_EXPECT(cudaFuncSetAttribute(nothing, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         50000) == cudaSuccess);
    FASTCONV_EXPECT(cudaMalloc(&data, sizeof host) == cudaSuccess);
    FASTCONV_EXPECT(launch(nothing, static_cast<float*>(data), nullptr, 50000) == cudaSuccess);
    cudaFree(data);
    return {};
}

}  // namespace

extern "C" __attribute__((visibility("default"))) const char* misuse(const char* name) {
    static thread_local std::string text;
    text = std::string("no case ") + name;
    if (std::strcmp(name, "graphs") == 0) text = graphs();
    if (std::strcmp(name, "captures") == 0) text = captures();
    if (std::strcmp(name, "captures_and_threads") == 0) text = captures_and_threads();
    if (std::strcmp(name, "memory") == 0) text = memory();
    for (const Case& which : kCases) {
        if (std::strcmp(which.name, name) != 0) continue;
        void* x = nullptr;
        cudaMalloc(&x, 10 * sizeof(float));
        const cudaError_t error = launch(which.kernel, static_cast<float*>(x));
        text = error == cudaSuccess ? "" : cudaGetErrorString(error);
        cudaFree(x);
    }
    return text.c_str();
}
