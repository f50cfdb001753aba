// Devices, errors and launches of the emulated runtime.
//
// FASTCONV_EMULATION_DEVICES (1), FASTCONV_EMULATION_CAPABILITY (90) and
// FASTCONV_EMULATION_MULTIPROCESSORS (4: grids stay small, loops over the grid and split sums come
// to pass) say what device is claimed, and are read at every question.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <mutex>
#include <string>

#include "engine.h"
#include "memory.h"
#include "streams.h"

namespace emulation {
namespace {

thread_local cudaError_t last_error = cudaSuccess;
thread_local std::string last_report;
thread_local int device = 0;

std::mutex shared_limits_mutex;
std::map<const void*, std::size_t> shared_limits;

int environment(const char* name, int otherwise) {
    const char* value = std::getenv(name);
    return value && *value ? std::atoi(value) : otherwise;
}

int capability() { return environment("FASTCONV_EMULATION_CAPABILITY", 90); }

std::size_t shared_limit() {
    switch (capability()) {
        case 75: return 64 * 1024;
        case 80:
        case 87: return 163 * 1024;
        case 86:
        case 89:
        case 120: return 99 * 1024;
        default: return 227 * 1024;
    }
}

cudaError_t invalid_launch(const std::string& why) {
    last_report = "invalid launch: " + why;
    return cudaErrorInvalidConfiguration;
}

uint3 cluster_shape(const cudaLaunchConfig_t& config) {
    for (unsigned i = 0; i < config.numAttrs; ++i) {
        if (config.attrs[i].id != cudaLaunchAttributeClusterDimension) continue;
        const auto& shape = config.attrs[i].val.clusterDim;
        return {shape.x, shape.y, shape.z};
    }
    return {1, 1, 1};
}

cudaError_t check_launch(const cudaLaunchConfig_t& config, const void* kernel) {
    const dim3 grid = config.gridDim, block = config.blockDim;
    const std::uint64_t threads = std::uint64_t{block.x} * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.z > 64)
        return invalid_launch(std::to_string(threads) + " threads a block (1 to 1024, z up to 64)");
    if (grid.x == 0 || grid.y == 0 || grid.z == 0) return invalid_launch("an empty grid");
    if (grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535)
        return invalid_launch("more than 2147483647 x 65535 x 65535 blocks");
    std::size_t limit = 48 * 1024;
    {
        const std::lock_guard lock(shared_limits_mutex);
        const auto found = shared_limits.find(kernel);
        if (found != shared_limits.end()) limit = found->second;
    }
    if (config.dynamicSmemBytes > limit)
        return invalid_launch(std::to_string(config.dynamicSmemBytes) +
                              " bytes of shared memory, with " + std::to_string(limit) +
                              " allowed");
    const uint3 cluster = cluster_shape(config);
    const std::uint64_t blocks = std::uint64_t{cluster.x} * cluster.y * cluster.z;
    if (blocks == 0 || blocks > 8)
        return invalid_launch(std::to_string(blocks) + " blocks a cluster (1 to 8)");
    if (blocks > 1 && capability() < 90)
        return invalid_launch("clusters before compute capability 9.0");
    if (grid.x % cluster.x != 0 || grid.y % cluster.y != 0 || grid.z % cluster.z != 0)
        return invalid_launch("a grid of no whole number of clusters");
    return cudaSuccess;
}

}  // namespace

cudaError_t returned(cudaError_t error) {
    if (error != cudaSuccess) last_error = error;
    return error;
}

int device_count() { return environment("FASTCONV_EMULATION_DEVICES", 1); }
int current_device() { return device; }

cudaError_t launch(const cudaLaunchConfig_t& config, const void* kernel,
                   std::function<void()> run_thread) {
    const cudaError_t invalid = check_launch(config, kernel);
    if (invalid != cudaSuccess) return returned(invalid);
    const Launch launch{kernel,
                        config.gridDim,
                        config.blockDim,
                        cluster_shape(config),
                        config.dynamicSmemBytes,
                        std::move(run_thread)};
    return enqueue(config.stream, [launch] {
        Engine& engine = Engine::of_this_thread();
        const cudaError_t error = engine.run(launch);
        if (error != cudaSuccess) last_report = engine.report();
        return error;
    });
}

cudaError_t set_shared_limit(const void* kernel, int bytes) {
    if (bytes < 0 || static_cast<std::size_t>(bytes) > shared_limit())
        return returned(cudaErrorInvalidValue);
    const std::lock_guard lock(shared_limits_mutex);
    shared_limits[kernel] = static_cast<std::size_t>(bytes);
    return cudaSuccess;
}

}  // namespace emulation

using namespace emulation;

// ---- errors -------------------------------------------------------------------------------------

const char* cudaGetErrorString(cudaError_t error) {
    switch (error) {
        case cudaSuccess: return "no error";
        case cudaErrorInvalidValue: return "invalid argument";
        case cudaErrorMemoryAllocation: return "out of memory";
        case cudaErrorInvalidDevice: return "invalid device ordinal";
        case cudaErrorNoDevice: return "no CUDA-capable device is detected";
        case cudaErrorInvalidResourceHandle: return "invalid resource handle";
        case cudaErrorNotReady: return "device not ready";
        case cudaErrorNotSupported: return "operation not supported";
        case cudaErrorInvalidConfiguration:
        case cudaErrorIllegalAddress:
        case cudaErrorIllegalInstruction:
        case cudaErrorMisalignedAddress:
        case cudaErrorLaunchFailure: return last_report.c_str();
        case cudaErrorStreamCaptureUnsupported:
            return "operation not permitted when stream is capturing";
        case cudaErrorStreamCaptureInvalidated:
            return "operation failed due to a previous error during capture";
        case cudaErrorStreamCaptureUnmatched: return "the capture was not initiated in this stream";
        case cudaErrorStreamCaptureUnjoined: return "capturing stream has unjoined work";
        case cudaErrorStreamCaptureIsolation:
            return "dependency created on uncaptured work in another stream";
        case cudaErrorStreamCaptureImplicit:
            return "operation would make the legacy stream depend on a capturing blocking stream";
        case cudaErrorCapturedEvent:
            return "operation not permitted on an event last recorded in a capturing stream";
        case cudaErrorStreamCaptureWrongThread:
            return "attempt to terminate a thread-local capture sequence from another thread";
        default: return "an error of the emulation";
    }
}

const char* cudaGetErrorName(cudaError_t error) {
    static thread_local char name[32];
    std::snprintf(name, sizeof name, "cudaError%d", static_cast<int>(error));
    return name;
}

cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaPeekAtLastError() { return last_error; }

// ---- devices ------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int* count) {
    *count = device_count();
    return *count > 0 ? cudaSuccess : returned(cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* index) {
    if (device_count() == 0) return returned(cudaErrorNoDevice);
    *index = device;
    return cudaSuccess;
}

cudaError_t cudaSetDevice(int index) {
    if (index < 0 || index >= device_count()) return returned(cudaErrorInvalidDevice);
    device = index;
    return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int index) {
    if (index < 0 || index >= device_count()) return returned(cudaErrorInvalidDevice);
    const int shared = static_cast<int>(shared_limit());
    switch (attribute) {
        case cudaDevAttrMaxThreadsPerBlock: *value = 1024; break;
        case cudaDevAttrMaxSharedMemoryPerBlock: *value = 48 * 1024; break;
        case cudaDevAttrWarpSize: *value = 32; break;
        case cudaDevAttrMaxRegistersPerBlock: *value = 65536; break;
        case cudaDevAttrClockRate: *value = 1000000; break;
        case cudaDevAttrMultiProcessorCount:
            *value = environment("FASTCONV_EMULATION_MULTIPROCESSORS", 4);
            break;
        case cudaDevAttrIntegrated: *value = 0; break;
        case cudaDevAttrMemoryClockRate: *value = 1000000; break;
        case cudaDevAttrGlobalMemoryBusWidth: *value = 1024; break;
        case cudaDevAttrL2CacheSize: *value = 1 << 20; break;
        case cudaDevAttrMaxThreadsPerMultiProcessor:
            *value = capability() == 75 ? 1024 : 2048;
            break;
        case cudaDevAttrComputeCapabilityMajor: *value = capability() / 10; break;
        case cudaDevAttrComputeCapabilityMinor: *value = capability() % 10; break;
        case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *value = shared + 1024; break;
        case cudaDevAttrMaxSharedMemoryPerBlockOptin: *value = shared; break;
        case cudaDevAttrMemoryPoolsSupported: *value = 1; break;
        default: return returned(cudaErrorInvalidValue);
    }
    return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int index) {
    if (index < 0 || index >= device_count()) return returned(cudaErrorInvalidDevice);
    const auto attribute = [index](cudaDeviceAttr which) {
        int value = 0;
        cudaDeviceGetAttribute(&value, which, index);
        return value;
    };
    *properties = {};
    std::snprintf(properties->name, sizeof properties->name, "Emulated device %d.%d",
                  capability() / 10, capability() % 10);
    properties->totalGlobalMem = Memory::kDeviceBytes;
    properties->sharedMemPerBlock = 48 * 1024;
    properties->regsPerBlock = attribute(cudaDevAttrMaxRegistersPerBlock);
    properties->warpSize = 32;
    properties->maxThreadsPerBlock = 1024;
    properties->maxThreadsDim[0] = properties->maxThreadsDim[1] = 1024;
    properties->maxThreadsDim[2] = 64;
    properties->maxGridSize[0] = 0x7fffffff;
    properties->maxGridSize[1] = properties->maxGridSize[2] = 65535;
    properties->major = capability() / 10;
    properties->minor = capability() % 10;
    properties->multiProcessorCount = attribute(cudaDevAttrMultiProcessorCount);
    properties->l2CacheSize = attribute(cudaDevAttrL2CacheSize);
    properties->maxThreadsPerMultiProcessor = attribute(cudaDevAttrMaxThreadsPerMultiProcessor);
    properties->sharedMemPerMultiprocessor = shared_limit() + 1024;
    properties->sharedMemPerBlockOptin = shared_limit();
    properties->memoryBusWidth = attribute(cudaDevAttrGlobalMemoryBusWidth);
    properties->memoryPoolsSupported = 1;
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() { return returned(synchronize_device()); }

cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
    *version = device_count() > 0 ? 13000 : 0;
    return cudaSuccess;
}
